"""The sieve of Eratosthenes, piece by piece. Knows nothing of calls and connections."""

from collections.abc import Iterator
from math import isqrt

PIECE = 1 << 20


def primes_below(limit: int, piece: int = PIECE) -> Iterator[tuple[int, int]]:
    """Counts primes. Yields after each piece how far it has come and how many primes there are below that."""
    small = small_primes(isqrt(max(limit - 1, 0)))
    found = 0
    for start in range(0, limit, piece):
        end = min(start + piece, limit)
        found += count_between(start, end, small)
        yield end, found


def small_primes(largest: int) -> list[int]:
    sieve = bytearray([1]) * (largest + 1)
    sieve[:2] = bytes(min(2, largest + 1))
    for number in range(2, isqrt(largest) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, largest + 1, number)))
    return [number for number, prime in enumerate(sieve) if prime]


def count_between(start: int, end: int, small: list[int]) -> int:
    """How many primes are in a piece, given all primes up to the root of its last number."""
    sieve = bytearray([1]) * (end - start)
    for number in range(start, min(2, end)):  # 0 and 1
        sieve[number - start] = 0
    for prime in small:
        first = max(prime * prime, -(-start // prime) * prime)
        if first < end:
            sieve[first - start :: prime] = bytes(len(range(first, end, prime)))
    return sum(sieve)
