#!/usr/bin/env python3
"""Looks for writes to registers that the tensor cores of a Hopper still read.

wgmma reads left factors from registers until its products are done, and compilers do not know (native/src/core/wgmma.cuh).
This walks the machine code of every kernel, its loops twice, and reports instructions that write such a register between
a product and the wait for it.  Needs cuobjdump of the CUDA toolkit, on the path or in $CUOBJDUMP.

  scripts/check-wgmma.py native/target/linux-x86_64/install/lib/libsaccade.so
"""
import os
import re
import subprocess
import sys

PRODUCT = re.compile(r"HGMMA\S* R\d+, (?:R(\d+)|gdesc)")
WAIT = re.compile(r"DEPBAR\.LE gsb0, 0x(\d)")
BRANCH = re.compile(r"\bBRA\b.*?0x([0-9a-f]+)")
TARGET = re.compile(r"(?:@!?U?P\d+\s+)?([A-Z][\w.]*)\s+(?:!?U?P[T\d]+, )*R(\d+)")
NO_TARGET = ("ST", "RED", "ATOM", "SYNCS", "BRA")
AFTER_LOOP = 800  # instructions


def kernels(library):
    tool = os.environ.get("CUOBJDUMP", "cuobjdump")
    text = subprocess.run([tool, "-arch", "sm_90a", "-sass", library], capture_output=True, text=True, check=True).stdout
    for part in text.split("Function : ")[1:]:
        lines = part.split("\n")
        found = (re.match(r"\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", line) for line in lines)
        yield lines[0], [(int(m.group(1), 16), m.group(2)) for m in found if m]


def width(operation):
    return 4 if ".128" in operation else 2 if ".64" in operation else 1


def walk(code, order, found):
    groups, own = [], set()  # registers of committed products, and of those to come
    for i in order:
        text = code[i][1]
        product, wait = PRODUCT.search(text), WAIT.search(text)
        if product:
            if product.group(1):
                own |= set(range(int(product.group(1)), int(product.group(1)) + 4))
            if "gsb0" in text:
                groups, own = groups + [own], set()
        elif wait:
            groups = groups[len(groups) - int(wait.group(1)) :] if int(wait.group(1)) else []
        else:
            target = TARGET.match(text)
            if target and not target.group(1).startswith(NO_TARGET):
                first = int(target.group(2))
                written = set(range(first, first + width(target.group(1))))
                if any(written & group for group in groups + [own]):
                    found.add(i)


def check(code):
    at = {address: i for i, (address, _) in enumerate(code)}
    found = set()
    walk(code, range(len(code)), found)
    for i, (_, text) in enumerate(code):
        branch = BRANCH.search(text)
        begin = at.get(int(branch.group(1), 16), i) if branch else i
        if begin < i and any("HGMMA" in code[k][1] for k in range(begin, i)):
            loop = list(range(begin, i + 1))
            walk(code, loop + loop + list(range(i + 1, min(len(code), i + AFTER_LOOP))), found)
    return sorted(found)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    count = bad = 0
    for name, code in kernels(sys.argv[1]):
        if not any("HGMMA" in text for _, text in code):
            continue
        count += 1
        found = check(code)
        bad += bool(found)
        for i in found[:5]:
            print(f"{name}: {code[i][0]:#x}: {code[i][1]}")
    print(f"{count} kernels with wgmma, {bad} write registers that are being read")
    sys.exit(bad > 0 or count == 0)


main()
