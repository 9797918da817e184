"""The TLS certificate of the gateway: loading it, and reloading it on SIGHUP while the gateway serves."""

import logging
import ssl

from gateway.config import Settings
from gateway.errors import StartupError

log = logging.getLogger(__name__)


class _EncryptedKey(Exception):
    pass


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the settings (TLS 1.2 or newer), or None if they have no certificate. Raises StartupError."""
    if not settings.tls_certificate:
        if settings.tls_key:
            raise StartupError("GATEWAY_TLS_KEY requires GATEWAY_TLS_CERTIFICATE.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings)
    return context


def reload_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Reads the files again, for new connections. Files that cannot be used are logged and ignored."""
    try:
        server_context(settings)  # checks the files, because a failed load would leave `context` partly changed
        _load(context, settings)
    except StartupError as error:
        log.error("TLS certificate reload failed error=%s", error)  # noqa: TRY400 - the message is complete
    else:
        log.info("Reloaded the TLS certificate")


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key or settings.tls_certificate
    for name, file in (("GATEWAY_TLS_CERTIFICATE", certificate), ("GATEWAY_TLS_KEY", key)):
        try:
            with open(file, "rb"):  # noqa: PTH123 - only checks that the file can be read
                pass
        except OSError as error:
            reason = (error.strerror or "permission denied").lower()
            raise StartupError(f"{name}: {file} cannot be read ({reason}).") from None
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except _EncryptedKey:
        raise StartupError(f"GATEWAY_TLS_KEY: the key in {key} is encrypted. Store it without a password.") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"GATEWAY_TLS_KEY: the key in {key} does not match the certificate in {certificate}."
        else:
            message = (
                f"GATEWAY_TLS_CERTIFICATE: {certificate} and {key} do not contain a certificate and its key in PEM"
                " format."
            )
        raise StartupError(message) from None


def _no_password() -> str:
    """Replaces OpenSSL's password prompt on the terminal."""
    raise _EncryptedKey
