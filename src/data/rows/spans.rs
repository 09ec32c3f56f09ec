//! Consecutive parts of a text or of a row's tokens, each of one kind.

use std::ops::Range;

/// The part up to `end` (a byte of a text, or a token) that begins where the part before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span<K> {
    pub end: usize,
    pub kind: K,
}

/// Parts in their order. Neighbours have different kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spans<K>(Vec<Span<K>>);

impl<K> Default for Spans<K> {
    fn default() -> Spans<K> {
        Spans(Vec::new())
    }
}

impl<K: Copy + PartialEq> Spans<K> {
    /// Everything up to `end` that has no kind yet is of this one.
    #[inline]
    pub fn extend_to(&mut self, end: usize, kind: K) {
        let start = self.end();
        match self.0.last_mut() {
            Some(last) if last.kind == kind => last.end = end.max(start),
            _ if end > start => self.0.push(Span { end, kind }),
            _ => {}
        }
    }

    pub fn append(&mut self, after: &Spans<K>) {
        let start = self.end();
        after.0.iter().for_each(|span| self.extend_to(start + span.end, span.kind));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn end(&self) -> usize {
        self.0.last().map_or(0, |span| span.end)
    }

    /// The parts from the one that has `place`.
    #[inline]
    pub fn from(&self, place: usize) -> &[Span<K>] {
        &self.0[self.0.partition_point(|span| span.end <= place)..]
    }

    /// The parts of a range, each with its own.
    pub fn within(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, K)> {
        self.from(range.start).iter().scan(range.start, move |start, span| {
            let part = *start..span.end.min(range.end);
            *start = part.end;
            (!part.is_empty()).then_some((part, span.kind))
        })
    }
}

impl Spans<bool> {
    /// The parts of a range that are true.
    pub fn chosen(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        self.within(range).filter_map(|(part, chosen)| chosen.then_some(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn parts_of_a_range_are_those_of_its_places(kinds in proptest::collection::vec(0u8..3, 0..20), ends in (0usize..25, 0usize..25)) {
            let mut spans = Spans::default();
            kinds.iter().enumerate().for_each(|(i, kind)| spans.extend_to(i + 1, *kind));
            let range = ends.0..ends.1;
            let each: Vec<(usize, u8)> = spans.within(range.clone()).flat_map(|(part, kind)| part.map(move |i| (i, kind))).collect();
            let wanted: Vec<(usize, u8)> = range.filter_map(|i| Some((i, *kinds.get(i)?))).collect();
            proptest::prop_assert_eq!(each, wanted);
            proptest::prop_assert!(spans.0.windows(2).all(|pair| pair[0].kind != pair[1].kind && pair[0].end < pair[1].end));
        }
    }
}
