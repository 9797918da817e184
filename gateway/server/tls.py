"""The certificate and key that the gateway serves TLS with, and their renewal while it serves."""

import logging
import ssl

from gateway.config import Settings
from gateway.errors import StartupError

log = logging.getLogger(__name__)


class _Encrypted(Exception):
    pass


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What the settings name, TLS 1.2 or newer; None where they name nothing. Raises StartupError."""
    if not settings.tls_certificate:
        if settings.tls_key:
            raise StartupError("GATEWAY_TLS_KEY is of no use without GATEWAY_TLS_CERTIFICATE")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings)
    return context


def renew(context: ssl.SSLContext, settings: Settings) -> None:
    """Reads the files again, for the connections to come. Files that are no good are told in the log, and not used."""
    try:
        server_context(settings)  # tried apart, for a load that fails leaves half of it behind
        _load(context, settings)
    except StartupError as error:
        log.error("the certificate is not renewed: %s", error)  # noqa: TRY400 - the message says it all
    else:
        log.info("the certificate was read again")


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key or settings.tls_certificate
    for name, file in (("GATEWAY_TLS_CERTIFICATE", certificate), ("GATEWAY_TLS_KEY", key)):
        try:
            with open(file, "rb"):  # noqa: PTH123 - whether it can be read
                pass
        except OSError as error:
            raise StartupError(f"{name}: {file} cannot be read ({(error.strerror or 'refused').lower()})") from None
    try:
        context.load_cert_chain(certificate, key, _refuse_to_ask)
    except _Encrypted:
        raise StartupError(f"GATEWAY_TLS_KEY: the key in {key} is encrypted: store it without a password") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"GATEWAY_TLS_KEY: the key in {key} is not that of the certificate in {certificate}"
        else:
            message = f"GATEWAY_TLS_CERTIFICATE: {certificate} and {key} hold no certificate and its key as PEM"
        raise StartupError(message) from None


def _refuse_to_ask() -> str:
    raise _Encrypted
