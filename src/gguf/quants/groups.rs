//! Blocks side by side: the driver of every encoder that searches for scales.
#![allow(clippy::inline_always)]

use crate::gguf::quants::lanes::{Lanes, MOST};

/// Rows to be encoded, all of the same length.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub numbers: &'a [f32],
    pub columns: usize,
    /// The importance of each column.
    pub importance: Option<&'a [f32]>,
}

/// A block in each lane.
pub(super) struct BlockGroup<'a, V> {
    /// By element.
    pub x: &'a [V],
    pub importance: Option<&'a [V]>,
    /// The mean square of each block's row; zero without importance.
    pub row_energy: V,
    /// The same numbers, block by block.
    pub numbers: &'a [f32],
}

/// The encoder of a block format.
pub(super) trait BlockEncoder {
    const ELEMENTS: usize;
    const BYTES: usize;
    /// Whether the search uses the mean square of the whole row.
    const USES_ROW: bool = false;
    /// Whether rows without importance need no search.
    const DIRECT: bool = false;

    /// Encodes blocks without importance, if `DIRECT`.
    fn encode_directly(_numbers: &[f32], _out: &mut [u8]) {}

    /// Encodes as many blocks as `out` has room for, from the first lane on; returns the lanes whose search left the exact range.
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask;
}

/// Encodes the blocks of all rows.
#[inline(always)]
pub(super) fn encode_groups<V: Lanes, B: BlockEncoder>(rows: Rows<'_>, out: &mut [u8]) {
    if B::DIRECT && rows.importance.is_none() {
        return B::encode_directly(rows.numbers, out);
    }
    let energies = if B::USES_ROW { row_energies(rows) } else { Vec::new() };
    let energy = |block: usize| energies.get(block * B::ELEMENTS / rows.columns).copied().unwrap_or(0.0);
    let importance = |block: usize| {
        let first = block * B::ELEMENTS % rows.columns;
        rows.importance.map(|importance| &importance[first..first + B::ELEMENTS])
    };
    let plainly = |block: usize, numbers: &[f32], out: &mut [u8]| {
        let _ = B::encode::<f32>(&BlockGroup { x: numbers, importance: importance(block), row_energy: energy(block), numbers }, out);
    };
    let at_once = V::COUNT;
    let mut places = vec![0.0; B::ELEMENTS * at_once];
    let mut x = vec![V::splat(0.0); B::ELEMENTS];
    let mut weights = rows.importance.map(|_| x.clone());
    let chunks = rows.numbers.chunks(B::ELEMENTS * at_once).zip(out.chunks_mut(B::BYTES * at_once));
    for (index, (numbers, out)) in chunks.enumerate() {
        let (first, count) = (index * at_once, numbers.len() / B::ELEMENTS);
        if at_once == 1 {
            plainly(first, numbers, out);
            continue;
        }
        // Lanes without a block repeat the last one.
        let block = |lane: usize| lane.min(count - 1);
        transpose(|lane| &numbers[block(lane) * B::ELEMENTS..][..B::ELEMENTS], &mut places, &mut x);
        if let Some(weights) = &mut weights {
            transpose(|lane| importance(first + block(lane)).unwrap_or(&[]), &mut places, weights);
        }
        let energies: [f32; MOST] = std::array::from_fn(|lane| energy(first + block(lane)));
        let group = BlockGroup { x: &x, importance: weights.as_deref(), row_energy: V::read(&energies), numbers };
        let refused = V::bits(B::encode(&group, out));
        if refused != 0 {
            for (lane, (numbers, out)) in numbers.chunks(B::ELEMENTS).zip(out.chunks_mut(B::BYTES)).enumerate() {
                if refused >> lane & 1 == 1 {
                    plainly(first + lane, numbers, out);
                }
            }
        }
    }
}

#[inline(always)]
fn transpose<'a, V: Lanes>(block: impl Fn(usize) -> &'a [f32], places: &mut [f32], vectors: &mut [V]) {
    for lane in 0..V::COUNT {
        for (places, number) in places.chunks_exact_mut(V::COUNT).zip(block(lane)) {
            places[lane] = *number;
        }
    }
    for (vector, places) in vectors.iter_mut().zip(places.chunks_exact(V::COUNT)) {
        *vector = V::read(places);
    }
}

/// The mean square of every row, each summed from left to right; several rows at a time, since each sum waits for its last addition.
#[inline(always)]
fn row_energies(rows: Rows<'_>) -> Vec<f32> {
    const AT_ONCE: usize = 8;
    if rows.importance.is_none() {
        return Vec::new();
    }
    let columns = rows.columns;
    let mut energies = Vec::with_capacity(rows.numbers.len() / columns);
    for rows in rows.numbers.chunks(columns * AT_ONCE) {
        let count = rows.len() / columns;
        let mut sums = [0.0_f32; AT_ONCE];
        if count == AT_ONCE {
            for column in 0..columns {
                for (row, sum) in sums.iter_mut().enumerate() {
                    let number = rows[row * columns + column];
                    *sum += number * number;
                }
            }
        } else {
            for (row, sum) in rows.chunks(columns).zip(&mut sums) {
                *sum = row.iter().fold(0.0, |sum, number| sum + number * number);
            }
        }
        energies.extend(sums[..count].iter().map(|sum| sum / columns as f32));
    }
    energies
}
