"""A guest of one disk sector that counts in its memory and on its disk, so that a test can verify a revert.

The guest boots and touches a given amount of memory. At every timer tick (55 ms) it increments a count in memory and a
count on its disk, and writes a line to its serial port: a number that is unique per boot, and both counts.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

# `test_guest` assembles this with GNU as and ld, and checks that CODE is the result.
SOURCE = """
    .code16
    .globl start
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, drive
    lgdt table                  # fs reaches all of memory after a moment in protected mode
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $8, %bx
    movw %bx, %fs
    andb $0xfe, %al
    movl %eax, %cr0
    rdtsc
    movl %eax, %ebp
    movl $0x100000, %edi
    movl pages, %ecx
    jecxz filled
more:                           # a page that is not all zeros is saved with every snapshot
    movl %edi, %fs:(%edi)
    addl $4096, %edi
    decl %ecx
    jnz more
filled:
    sti
    movl %ebp, boot
    movb $0x42, %ah             # read the sector
    call disk
tick:
    incl count
    incl sector
    movb $0x43, %ah             # write it
    call disk
    movb $'B', %al
    movl boot, %ebx
    call show
    movb $'M', %al
    movl count, %ebx
    call show
    movb $'D', %al
    movl sector, %ebx
    call show
    movb $'\\n', %al
    call put
    hlt
    jmp tick
disk:
    movb $0, %al
    movb drive, %dl
    movw $address, %si
    int $0x13
    jnc 1f
    movb $'E', %al
    call put
1:  ret
show:                           # a letter and eight hexadecimal digits
    call put
    movw $8, %cx
2:  roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    cmpb $10, %al
    sbbb $0x69, %al
    das
    call put
    loop 2b
    movb $' ', %al
put:
    pushw %ax
    movw $0x3fd, %dx
3:  inb %dx, %al
    testb $0x20, %al
    jz 3b
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    ret
    .balign 8
table:
    .word 15
    .long table
    .word 0
    .quad 0x00cf92000000ffff
address:                        # one sector, the second of the disk
    .byte 16, 0
    .word 1, sector, 0
    .quad 1
pages:
    .long 0
drive:
    .byte 0
    .org 510
    .word 0xaa55
    .set boot, 0x7e00
    .set count, 0x7e04
    .set sector, 0x8000
"""
CODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007c8816ec7c0f0116c87c0f20c00c010f22c0bb08008ee324fe0f22c00f316689c566bf0000"
    "1000668b0ee87c67e310646766893f6681c700100000664975f0fb66892e007eb442e8350066ff06047e66ff060080b4"
    "43e82600b042668b1e007ee82f00b04d668b1e047ee82500b044668b1e0080e81b00b00ae83000f4ebcbb0008a16ec7c"
    "bed87ccd137305b045e81b00c3e81700b9080066c1c30488d8240f3c0a1c692fe80400e2eeb02050bafd03eca82074fb"
    "58baf803eec366900f00c87c00000000ffff00000092cf00100001000080000001000000000000000000000000"
)
_PAGES = len(CODE) - 5  # the offset of `pages`

_DISK = 1 << 20  # the smallest disk that the BIOS boots from
_LINE = re.compile(r"B([0-9A-F]{8}) M([0-9A-F]{8}) D([0-9A-F]{8}) \n")


class GuestLine(NamedTuple):
    """The line that the guest writes at one tick."""

    boot: int
    memory: int
    disk: int


def sector(touched: int = 0) -> bytes:
    """The boot sector of a guest that touches `touched` MiB of its memory, after the first MiB."""
    pages = (touched * 256).to_bytes(4, "little")
    return (CODE[:_PAGES] + pages + CODE[_PAGES + 4 :]).ljust(510, b"\0") + b"\x55\xaa"


def write_image(image: Path, touched: int = 0, kind: str = "qcow2") -> None:
    """Writes a disk image that boots the guest."""
    raw = image.with_suffix(".sector")
    raw.write_bytes(sector(touched).ljust(_DISK, b"\0"))
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", kind, raw, image], check=True)
    raw.unlink()


def lines(serial: Path) -> list[GuestLine]:
    """All lines that the guest has written."""
    text = serial.read_text("ascii", "replace") if serial.exists() else ""
    return [GuestLine(*(int(digits, 16) for digits in found)) for found in _LINE.findall(text)]


def domain_xml(name: str, uuid: str, image: Path, serial: Path, memory: int = 2, kind: str = "qcow2") -> str:
    """A libvirt domain of the guest with `memory` MiB, which runs with TCG."""
    return f"""
<domain type="qemu">
  <name>{name}</name><uuid>{uuid}</uuid><memory unit="MiB">{memory}</memory><vcpu>1</vcpu>
  <os><type arch="x86_64" machine="pc">hvm</type><boot dev="hd"/></os>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="{kind}"/><source file="{image}"/><target dev="vda" bus="virtio"/>
    </disk>
    <serial type="file"><source path="{serial}" append="on"/></serial>
    <controller type="usb" model="none"/><memballoon model="none"/>
  </devices>
</domain>"""
