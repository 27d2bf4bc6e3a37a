#!/usr/bin/env python3
"""A second implementation of the telemetry block, written from docs/formats/block.md.

block.py make          writes vectors.json to standard output
block.py check         reads such a file, decodes its blocks and encodes the samples again;
                       those marked as junk it only decodes, or refuses where there are no samples
block.py explain HEX   decodes a block and tells every bit
"""
import json
import random
import re
import sys
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "formats" / "block.md"
F, NARROW, TOP = 1 << 26, 1 << 31, 1 << 32


def first_chances():
    table = {}
    for name, row, numbers in re.findall(r"^\| (\w+)(?: \[(\d+)\])? \| ([\d ]+) \|$", DOC.read_text(), re.M):
        for k, s in enumerate(numbers.split()):
            table[name, int(row or 0), k] = 256 * int(s) + 128
    assert len(table) == 141
    return table


def crc32c(data):
    c = 0xFFFFFFFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    return c ^ 0xFFFFFFFF


def clamp(x, m):
    return max(-m, min(m, x))


def wrap(x):
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def length(u):
    return u.bit_length() - 1


def size(x):
    u = abs(x)
    return 2 * u if u < 2 else 2 * length(u) + 2 + (u >> length(u) - 1 & 1)


class Writer:
    """The coder, writing: one whole number that grows, instead of bytes with carries."""

    def __init__(self):
        self.low, self.width, self.settled = 0, TOP - 1, 0

    def settle(self):
        while self.width < 1 << 24:
            self.width, self.low, self.settled = self.width << 8, self.low << 8, self.settled + 1

    def bit(self, z, b):
        bound = self.width * z // 65536
        if b:
            self.low, self.width = self.low + bound, self.width - bound
        else:
            self.width = bound
        self.settle()
        return b

    def plain(self, k, v):
        while k:
            g = min(k, 8)
            k -= g
            self.width >>= g
            self.low += (v >> k) % (1 << g) * self.width
            self.settle()
        return v

    def end(self):
        last, k = self.low + self.width - 1, 64
        while last >> k << k < self.low or k > 32:
            k -= 1
        return (last >> k << k).to_bytes(self.settled + 4, "big").rstrip(b"\0")


class Reader:
    def __init__(self, body, tell=None):
        assert not body.endswith(b"\0"), "ends in zeros"
        self.body, self.tell = body, tell
        self.offset, self.width, self.taken = int.from_bytes((body + bytes(4))[:4], "big"), TOP - 1, 4
        assert self.offset < self.width, "not in the interval"

    def settle(self):
        while self.width < 1 << 24:
            byte = self.body[self.taken] if self.taken < len(self.body) else 0
            self.width, self.offset, self.taken = self.width << 8, self.offset << 8 | byte, self.taken + 1

    def bit(self, z, _):
        bound = self.width * z // 65536
        b = self.offset >= bound
        if b:
            self.offset, self.width = self.offset - bound, self.width - bound
        else:
            self.width = bound
        self.settle()
        return b

    def plain(self, k, _):
        v = 0
        while k:
            g = min(k, 8)
            k -= g
            self.width >>= g
            group = self.offset // self.width
            assert group < 1 << g, "not in the interval"
            self.offset -= group * self.width
            v = v << g | group
            self.settle()
        return v


class Column:
    def __init__(self):
        self.known = False
        self.last = self.step = self.level = self.stay = self.drift = self.steps = self.unit = self.size = 0
        self.up = self.down = 65536
        self.own = {}


class Model:
    def __init__(self, coder, points, tell=None):
        self.coder, self.tell = coder, tell
        self.shared = first_chances()
        self.columns = [Column() for _ in range(points + 1)]
        self.scores = {}  # (column, other column, "with" | "times" | "over")
        self.samples, self.time, self.gone = 0, 0, [False] * points

    def ask(self, question, bit, own=None):
        z = self.shared[question]
        mine = None
        if own is not None and own[0] <= 16:
            mine = self.columns[own[0]].own.setdefault(own[1], [32768, 0])
        mean = z if mine is None else (z + mine[0]) // 2
        bit = bool(self.coder.bit(mean, bit))
        if self.tell:
            self.tell(f"{question[0]} [{question[1]}] [{question[2]}]", mean, int(bit), self.coder)
        self.shared[question] = z - z // 64 if bit else z + (65536 - z) // 64
        if mine is not None:
            mine[1] += 1
            r = min(mine[1] + 1, 16)
            mine[0] += -(mine[0] // r) if bit else (65536 - mine[0]) // r
        return bit

    def plain(self, k, v):
        v = self.coder.plain(k, v)
        if self.tell and k:
            self.tell(f"{k} plain bits", "", f"{v:0{k}b}", self.coder)
        return v

    def sample(self, at, values):
        if self.samples == 1:
            self.columns[0] = Column()
        self.time = wrap(self.time + self.value(0, wrap(at - self.time)))
        gone = [v is None for v in values]
        if self.ask(("gaps", 0, 0), gone != self.gone):
            self.gone = [self.ask(("gap", 0, int(before)), now) for before, now in zip(self.gone, gone)]
        out = []
        for i, v in enumerate(values):
            if self.gone[i]:
                self.columns[i + 1].up = self.columns[i + 1].down = 65536
                out.append(None)
            else:
                out.append(self.value(i + 1, v or 0))
        self.samples += 1
        return self.time, out

    def value(self, i, v):
        c = self.columns[i]
        if not c.known:
            return self.first(i, v)
        p, learned = self.predict(i)
        unit = c.unit if c.steps == 4 and c.unit > 1 else 1
        d = wrap(v - c.last)
        if unit > 1 and self.ask(("unit", 0, 0), d % unit != 0):
            unit, p = 1, 0
        f = p // unit
        whole = (f + 8) // 16
        part = f - 16 * whole
        r = self.residual(i, c, part, wrap(d // unit - whole))
        c.size += (256 * size(r) - c.size) // 4
        self.learn(i, c, learned, wrap((r + whole) * unit))
        return c.last

    def first(self, i, v):
        c, new = self.columns[i], 0
        if self.ask(("first", 0, 0 if i else 5), v != 0):
            below = self.ask(("first", 0, 1), v < 0)
            n = length(abs(v)) if v else 0
            a = int(self.ask(("first", 0, 2), n >> 5))
            b = int(self.ask(("first", 0, 3 + a), n >> 4 & 1))
            n = a << 5 | b << 4 | self.plain(4, n % 16)
            new = 1 << n | self.plain(n, abs(v) % (1 << n))
            new = wrap(-new if below else new)
        c.known, c.last = True, new
        c.size = 256 * max(size(new) // 2 - 4, 0)
        if 0 < new < NARROW:
            c.level = 256 * new
            if i == 0:
                c.steps, c.unit = 1, new
        return new

    def residual(self, i, c, part, r):
        s = (c.size + 128) // 256
        row = s if s < 12 else 10 + s % 2
        side = 1 if part < -3 else 2 if part > 3 else 0
        if not self.ask(("rest", row, min(side, 1)), r != 0, (i, 0)):
            return 0
        below = self.ask(("sign", 0, side), r < 0)
        u, n = abs(r), 0
        target = length(u) if u else 0
        while n < 63 and self.ask(("more", row, max(0, min(7, n - s // 2 + 4))), target > n, (i, min(n + 1, 15))):
            n += 1
        u = self.magnitude(u, n)
        return wrap(-u if below else u)

    def magnitude(self, u, n):
        if n == 0:
            return 1
        second = int(self.ask(("half", 0, min(n, 8) - 1), u >> n - 1 & 1))
        return (2 | second) << n - 1 | self.plain(n - 1, u % (1 << n - 1))

    def predict(self, i):
        c = self.columns[i]
        learned = {}
        if i == 0:
            learned["drift"] = clamp(c.level // 16 - 16 * clamp(c.last, NARROW), F) if c.level > 0 else 0
            return (learned["drift"] if c.drift <= c.stay else 0), learned
        best, step = c.stay, 0
        if i <= 16 and c.level > 0:
            with_ = {j: c.level * self.columns[j].up >> 20 for j in range(1, i)}
            learned["with"] = with_
            guide = None
            for j in with_:
                if self.scores.get((i, j, "with"), 0) < best:
                    best, guide = self.scores.get((i, j, "with"), 0), j
            if guide:
                x = with_[guide]
                learned["times"] = {j: with_[guide] * self.columns[j].up // 65536 for j in with_}
                learned["over"] = {j: with_[guide] * self.columns[j].down // 65536 for j in with_}
                for j in with_:
                    for kind in ("times", "over"):
                        if j != guide and self.scores.get((i, j, kind), 0) < best:
                            best, x = self.scores.get((i, j, kind), 0), learned[kind][j]
                step = clamp(x - 16 * c.last, F)
        learned["drift"] = 16 * clamp(c.step, 1 << 22)
        if c.drift < best:
            best, step = c.drift, learned["drift"]
        k = max(c.stay.bit_length() - 15, 0)
        a, b = (c.stay >> k) + 1, (best >> k) + 1
        p = abs(step) * a * a // (a * a + b * b)
        return (p if step > 0 else -p), learned

    def learn(self, i, c, learned, d):
        def moved(q, e):
            return q + (16 * min(abs(e), F) - q) // 16

        n = 16 * clamp(d, F)
        c.stay, c.drift = moved(c.stay, n), moved(c.drift, n - learned["drift"])
        for kind in ("with", "times", "over"):
            for j, x in learned.get(kind, {}).items():
                self.scores[i, j, kind] = moved(self.scores.get((i, j, kind), 0), 16 * c.last + n - x)
        if d:
            a, b = c.unit, abs(d) if abs(d) < NARROW else 1
            while b:
                a, b = b, a % b
            c.unit = a
            if c.steps < 4:
                c.steps += 1
                if c.steps == 4 and a > 1:
                    c.size = max(c.size - 256 * (size(a) - 2), 0)
        c.step, c.last = d, wrap(c.last + d)
        if i == 0:
            pace = 64 * c.unit if c.steps == 4 else 64
            c.level += clamp(256 * clamp(c.last, NARROW) - c.level, pace)
            return
        c.up = c.down = 65536
        v = 256 * c.last
        if not 0 < c.last < NARROW:
            c.level = 0
        elif c.level == 0:
            c.level = v
        else:
            c.up, c.down = min(65536 * v // c.level, 1 << 20), min(65536 * c.level // v, 1 << 20)
            c.level += (v - c.level) // 2


def sealed(kind, points, samples, body):
    data = bytes([kind, points]) + samples.to_bytes(2, "big") + body
    return data + crc32c(data).to_bytes(4, "big")


def encode(points, samples):
    m = Model(Writer(), points)
    for at, values in samples:
        m.sample(at, values)
    body = m.coder.end()
    coded = sealed(0x11, points, len(samples), body)
    if len(body) > len(samples) * (points + 1):
        coded = min(coded, sealed(0x10, points, len(samples), stored(points, samples)), key=len)
    return coded


def stored(points, samples):
    columns = [[at for at, _ in samples]] + [[v[i] for _, v in samples] for i in range(points)]
    heads, bases, widths = b"", [], []
    for c in columns:
        there = [v for v in c if v is not None] or [0]
        bases.append(min(there))
        widths.append(((max(there) - min(there)).bit_length() + 7) // 8)
        heads += bytes([widths[-1] + 128 * (None in c)]) + bases[-1].to_bytes(8, "big", signed=True)
    rows = b""
    for row in zip(*columns):
        marks = "".join(str(int(v is None)) for v, c in zip(row, columns) if None in c)
        marks += "0" * (-len(marks) % 8)
        rows += bytes(int(marks[k : k + 8], 2) for k in range(0, len(marks), 8))
        for v, base, width in zip(row, bases, widths):
            rows += (0 if v is None else v - base).to_bytes(width, "big")
    return heads + rows


def decode(data, tell=None):
    kind, points, samples, body = data[0], data[1], int.from_bytes(data[2:4], "big"), data[4:-4]
    assert kind in (0x10, 0x11), "unknown kind"
    assert crc32c(data[:-4]) == int.from_bytes(data[-4:], "big"), "wrong checksum"
    assert 1 <= points <= 64 and samples <= 4096, "out of bounds"
    if kind == 0x11:
        m = Model(Reader(body), points, tell)
        out = [m.sample(0, [0] * points) for _ in range(samples)]
        assert m.coder.taken >= len(body), "bytes are left over"
        return points, out
    heads, body = body[: 9 * (points + 1)], body[9 * (points + 1) :]
    widths = [heads[9 * i] & 127 for i in range(points + 1)]
    gaps = [i for i in range(points + 1) if heads[9 * i] & 128]
    bases = [int.from_bytes(heads[9 * i + 1 : 9 * i + 9], "big", signed=True) for i in range(points + 1)]
    marks, out = (len(gaps) + 7) // 8, []
    for _ in range(samples):
        bits = "".join(f"{b:08b}" for b in body[:marks])
        body, row = body[marks:], []
        for base, width in zip(bases, widths):
            row.append(base + int.from_bytes(body[:width], "big"))
            body = body[width:]
        for i, b in zip(gaps, bits):
            row[i] = None if b == "1" else row[i]
        out.append((row[0], row[1:]))
    assert not body, "wrong length"
    return points, out


def examples():
    r = random.Random(1)
    yield "empty", 1, []
    yield "first steps", 1, [(0, [100]), (2000, [101])]
    yield "one sample", 3, [(1767225600000, [2301, -5, None])]
    yield "night", 10, [(2000 * k, [0] * 10) for k in range(100)]
    yield "nothing could be read", 2, [(1000 * k, [None, None]) for k in range(20)]
    yield "gaps", 3, [(15000 * k, [None if k % 7 == 3 else 2300 + k, 50, None if k > 30 else k * k]) for k in range(60)]
    big = [-(1 << 63), (1 << 63) - 1, 0, -1, 1, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 62]
    yield "extremes", 2, [(r.choice(big), [r.choice(big), r.choice(big)]) for _ in range(40)]
    yield "noise", 4, [(r.randrange(1 << 40), [r.randrange(1 << 16) if r.random() < 0.9 else None for _ in range(4)]) for _ in range(40)]
    yield "wide noise", 16, [(k, [r.randrange(-(1 << 63), 1 << 63) for _ in range(16)]) for k in range(60)]
    yield "units of ten", 1, [(k * 60000 + (7 if k == 50 else 0), [5000 + 10 * r.randrange(3) + (1 if k == 70 else 0)]) for k in range(90)]
    yield "many points", 64, [(k * 1000, [r.randrange(3) + 100 * i + k * (i % 5) for i in range(64)]) for k in range(12)]
    day = []
    for k in range(240):
        sun = 0 if k % 120 < 6 else 300 + k * 2 + (k // 37 % 3) * 150 + r.randrange(-6, 7)
        v, vp = 2300 + r.randrange(-8, 9), 6400 + r.randrange(-90, 91)
        p = sun * 60
        day.append((1767225600000 + 2000 * k + (k % 11 == 5) * 8, [v, p * 10 // v, 5000 + r.randrange(-2, 3), vp, p * 104 // vp, p // 10]))
    yield "morning", 6, day


def main():
    if sys.argv[1:] == ["make"]:
        vectors = []
        for name, points, samples in examples():
            data = encode(points, samples)
            assert decode(data) == (points, samples), name
            vectors.append({"name": name, "points": points, "samples": samples, "block": data.hex()})
        samples = [(2000 * k, [k * k - 5, None if k % 3 else -(1 << 63), None, 7]) for k in range(9)]
        data = sealed(0x10, 4, len(samples), stored(4, samples))
        assert decode(data) == (4, samples)
        vectors.append({"name": "stored though larger", "points": 4, "samples": samples, "block": data.hex()})
        print("[" + ",\n".join(json.dumps(v, separators=(",", ":")) for v in vectors) + "]")
    elif sys.argv[1:] == ["check"]:
        for v in json.load(sys.stdin):
            data = bytes.fromhex(v["block"])
            try:
                points, samples = decode(data)
            except AssertionError:
                points, samples = v["points"], None
            if v["samples"] is not None:
                v["samples"] = [(at, values) for at, values in v["samples"]]
            if (points, samples) != (v["points"], v["samples"]):
                sys.exit(f"{v['name']}: decodes to something else")
            if not v.get("junk") and encode(v["points"], samples) != data:
                sys.exit(f"{v['name']}: encodes to something else")
    elif len(sys.argv) == 3 and sys.argv[1] == "explain":
        tell = lambda question, z, bit, coder: print(f"| {question} | {z} | {bit} | {coder.width:08x} |")
        print(decode(bytes.fromhex(sys.argv[2]), tell)[1])
    else:
        sys.exit(__doc__)


main()
