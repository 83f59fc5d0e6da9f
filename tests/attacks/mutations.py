"""Values that nobody expects, in places chosen at random."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

from seqexport.plugins.reading import SETTINGS

DEEP = "deep"
"""Stands for brackets in brackets, which no program's own writer of JSON makes."""

EVIL: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, 1e300, float("nan"), float("inf"), 7, 64, 2**31, 2**40, 2**48, 2**63, 10**9,
    10**18, 10**30, "", "x", "[/x]", "[red]", "\x1b[2Jhidden", "a" * 300, "é\u202e", "../outside/secret", "/dev/zero",
    "*/_ORT_MEM_ADDR_/*", "model.onnx", "float16", "float64", [], [[1]], {}, {"x": 1}, [-1, "x"], ["x", None], [0] * 71,
    [2**48, 2**48], "auto", "1e999", DEEP,
)  # fmt: skip


def mutated(value: Any, random: Random, times: int = 1) -> bytes:
    """JSON with some values exchanged, left out, doubled or moved."""
    whole = [copy.deepcopy(value)]
    for _ in range(times):
        _mutate(whole, random)
    text = json.dumps(whole[0])
    return text.replace(f'"{DEEP}"', "[" * 200_000 + "]" * 200_000).encode()


def _mutate(whole: list[Any], random: Random) -> None:
    places = list(_places(whole))
    holder, key = random.choice(places)
    how = random.randrange(8)
    if how == 0 and holder is not whole:
        del holder[key]
    elif how == 1:
        holder[key] = copy.deepcopy(random.choice(places)[0])
    elif how == 2 and isinstance(holder[key], list):
        holder[key] = holder[key] * random.choice((0, 2, 1000))
    elif how == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = random.choice((holder[key] + 1, holder[key] * 2, -holder[key], holder[key] * 10**6))
    else:
        holder[key] = copy.deepcopy(random.choice(EVIL))


def _places(value: Any) -> Any:
    """Each place that holds a value, as the list or object and the key."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        yield value, key
        if isinstance(value[key], (list, dict)):
            yield from _places(value[key])


def scrambled(data: bytes, random: Random) -> bytes:
    """Bytes with some flipped, cut out, doubled, or with others at the end."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place, how = random.randrange(len(changed) + 1), random.randrange(5)
        if how == 0:
            del changed[place:]
        elif how == 1:
            changed[place : place + random.randint(1, 64)] = b""
        elif how == 2:
            changed[place:place] = random.randbytes(random.randint(1, 16))
        elif how == 3 and len(changed) < SETTINGS:
            changed += changed[place : place + 4096]
        elif place < len(changed):
            changed[place] = random.randrange(256)
    return bytes(changed)
