"""Exact nearest motif by a k-d tree, compiled by numba: what `momos.methods.nearest` uses on a CPU.

A tree is (child, axis, plane, box, leaf, coordinates, indices, depth). By node: child (the left
one; the right one is child + 1; itself in a leaf), axis, plane, box (low and high of each
coordinate), leaf (-1 inside). By leaf: coordinates (leaves, s, LEAF), padded with infinity and
stored coordinate by coordinate, so that the compiler vectorises a scan; indices (leaves, LEAF) of
the motifs.
"""

import numpy as np
from numba import njit

# Motifs in a leaf: a few vector registers; the fastest of 6 to 48 over block sizes 2 to 8.
LEAF = 32

compiled = njit(cache=True, nogil=True)
inlined = njit(inline="always")  # a call costs a fifth of the search


def search(blocks: np.ndarray, motifs: np.ndarray) -> np.ndarray:
    """Find the nearest motif of each block, of equally near ones the lowest index.

    blocks (n, s), motifs (k, s), float32 or float64 -> (n,) int64
    """
    tree = grow(motifs, LEAF)
    return descend(blocks, leaf_order(blocks, tree), tree, (0,) * blocks.shape[1])


# --- building


@compiled
def grow(motifs, width):
    """Build the tree: split at the median of the widest coordinate, down to `width` motifs a leaf.

    A leaf may also hold any number of copies of one motif. Equal keys stay on one side, so that
    copies of a motif meet in one leaf; if they are alone there, the lowest index stands for all:
    many copies cost nothing.
    """
    k, s = motifs.shape
    child, axis = np.empty(2 * k, np.int32), np.zeros(2 * k, np.int32)
    plane, box = np.full(2 * k, np.inf), np.empty((2 * k, s, 2))
    leaf, spans = np.full(2 * k, -1, np.int32), np.empty((k, 2), np.int64)
    order, keys = np.arange(k), np.empty(k)
    todo = np.empty((128 + 2 * s, 4), np.int64)
    todo[0] = 0, 0, k, 0
    waiting, nodes, leaves, depth = 1, 1, 0, 0
    while waiting > 0:
        waiting -= 1
        node, start, end, level = todo[waiting]
        depth = max(depth, level)
        widest, extent = _bound(motifs, order, start, end, box[node])
        if extent <= 0:
            order[start] = order[start:end].min()
            end = start + 1
        if end - start <= width:
            child[node], leaf[node] = node, leaves
            spans[leaves] = start, end
            leaves += 1
            continue
        for i in range(start, end):
            keys[i] = motifs[order[i], widest]
        full = (end - start + width - 1) // width  # leaves below: all but the last shall be full
        plane[node], middle = _split(keys, order, start, end, start + width * ((full + 1) // 2))
        child[node], axis[node] = nodes, widest
        todo[waiting] = nodes, start, middle, level + 1
        todo[waiting + 1] = nodes + 1, middle, end, level + 1
        waiting, nodes = waiting + 2, nodes + 2
    coordinates, indices = _leaves(motifs, order, spans[:leaves], width)
    return (
        child[:nodes],
        axis[:nodes],
        plane[:nodes],
        box[:nodes],
        leaf[:nodes],
        coordinates,
        indices,
        depth,
    )


@compiled
def _bound(motifs, order, start, end, box):
    """Fill box (s, 2) with the ends of motifs[order[start:end]].

    Returns the widest coordinate and its extent.
    """
    widest, extent = 0, -1.0
    for c in range(motifs.shape[1]):
        low = high = np.float64(motifs[order[start], c])
        for i in range(start + 1, end):
            x = np.float64(motifs[order[i], c])
            low = x if x < low else low
            high = x if x > high else high
        box[c, 0], box[c, 1] = low, high
        if high - low > extent:
            widest, extent = c, high - low
    return widest, extent


@compiled
def _split(keys, order, start, end, want):
    """Move the keys below a cut near rank `want` to the front, and `order` with them.

    Returns the cut, and where the others begin.
    """
    _select(keys, order, start, end - 1, want)
    cut, middle = keys[want], start
    while middle == start:
        for i in range(start, end):
            if keys[i] < cut:
                _swap(keys, order, i, middle)
                middle += 1
        if middle == start:  # cut is the lowest key: take the next
            above = np.inf
            for i in range(start, end):
                above = keys[i] if cut < keys[i] < above else above
            cut = above
    return cut, middle


@compiled
def _select(keys, order, first, last, want):
    """Put into keys[want] what sorting keys[first..last] would, lower ones before it (Hoare)."""
    while first < last:
        pivot, i, j = keys[(first + last) // 2], first, last
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                _swap(keys, order, i, j)
                i, j = i + 1, j - 1
        if j < want:
            first = i
        if want < i:
            last = j


@compiled
def _swap(keys, order, i, j):
    keys[i], keys[j] = keys[j], keys[i]
    order[i], order[j] = order[j], order[i]


@compiled
def _leaves(motifs, order, spans, width):
    """Store the motifs order[start:end] of each span as a leaf of `width` places.

    Returns coordinates (leaves, s, width) and indices (leaves, width).
    """
    k, s = motifs.shape
    coordinates, indices = np.full((len(spans), s, width), np.inf), np.full((len(spans), width), k)
    for at in range(len(spans)):
        start, end = spans[at]
        for i in range(start, end):
            indices[at, i - start] = order[i]
            for c in range(s):
                coordinates[at, c, i - start] = motifs[order[i], c]
    return coordinates, indices


# --- searching


@compiled
def leaf_order(blocks, tree):
    """Order the blocks leaf by leaf -> (n,) int64 rows.

    Neighbours then take the same way through the tree, which caches and branch prediction like.
    """
    child, axis, plane, _, _, _, _, depth = tree
    n = len(blocks)
    home = np.zeros(n, np.int32)
    ends, rows = np.zeros(len(child) + 1, np.int64), np.empty(n, np.int64)
    for start in range(0, n, 512):
        end = min(start + 512, n)
        for _ in range(depth):  # level by level, for one block's way down is a chain of waits
            for i in range(start, end):
                node = home[i]
                home[i] = child[node] + (1 if blocks[i, axis[node]] >= plane[node] else 0)
    for i in range(n):
        ends[home[i] + 1] += 1
    for node in range(len(child)):
        ends[node + 1] += ends[node]
    for i in range(n):
        rows[ends[home[i]]] = i
        ends[home[i]] += 1
    return rows


@compiled
def descend(blocks, rows, tree, coordinate):
    """Find the nearest motif of each block, going down the nearer child first -> (n,) int64.

    coordinate: a tuple of s numbers, whose length the compiler knows. A box's distance is summed as
    a motif's is. Rounding is monotone, so it never exceeds that of a motif inside: no margin is
    needed.
    """
    child, _, _, box, leaf, coordinates, indices, depth = tree
    s, width = len(coordinate), coordinates.shape[2]
    nearest = np.empty(len(blocks), np.int64)
    stack, bounds = np.empty(depth + 2, np.int64), np.empty(depth + 2)
    block, distance = np.empty(s), np.empty(width)
    # defined here: as a constant of the module it costs a fifth of the search
    none = np.iinfo(np.int64).max
    bits = distance.view(np.int64)  # distances order as their bits do: integer minima vectorise
    for row in rows:
        for c in range(s):
            block[c] = blocks[row, c]
        closest, record, chosen = np.inf, none, none  # record: the bits of closest
        stack[0], bounds[0], waiting = 0, 0.0, 1
        while waiting > 0:
            waiting -= 1
            node, bound = stack[waiting], bounds[waiting]
            while bound <= closest and leaf[node] < 0:
                near, far = child[node], child[node] + 1
                bound = _to_box(block, box, near, coordinate)
                beyond = _to_box(block, box, far, coordinate)
                if beyond < bound:
                    near, far, bound, beyond = far, near, beyond, bound
                if beyond <= closest:
                    stack[waiting], bounds[waiting] = far, beyond
                    waiting += 1
                node = near
            if bound > closest:
                continue
            _to_motifs(block, coordinates, leaf[node], distance, coordinate)
            least = _least(bits, none)
            if least <= record:
                before = chosen if least == record else none
                chosen = _lowest(bits, indices, leaf[node], least, before, none)
                record, closest = least, _least(distance, closest)
        nearest[row] = chosen
    return nearest


@inlined
def _to_box(block, box, node, coordinate):
    """Squared distance of a block to a node's box, 0 inside."""
    total = 0.0
    for c in range(len(coordinate)):
        x, y = box[node, c, 0] - block[c], block[c] - box[node, c, 1]
        x = x if x > y else y
        x = x if x > 0 else 0.0
        total += x * x
    return total


@inlined
def _to_motifs(block, coordinates, at, distance, coordinate):
    """Fill distance (width,) with the squared distances of a block to the motifs of leaf `at`."""
    width = len(distance)
    for i in range(width):
        x = block[0] - coordinates[at, 0, i]
        distance[i] = x * x
    for c in range(1, len(coordinate)):
        for i in range(width):
            x = block[c] - coordinates[at, c, i]
            distance[i] += x * x


@inlined
def _least(values, least):
    """The least of the values and `least`."""
    for i in range(len(values)):
        least = values[i] if values[i] < least else least
    return least


@inlined
def _lowest(bits, indices, at, least, lowest, none):
    """The lowest of `lowest` and the indices, in leaf `at`, of motifs at the distance `least`."""
    for i in range(len(bits)):
        index = indices[at, i] if bits[i] == least else none
        lowest = index if index < lowest else lowest
    return lowest
