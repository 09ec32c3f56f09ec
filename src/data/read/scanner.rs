//! Finds the end of a JSON value, 64 bytes at a time, with arithmetic on bit masks of quotes, backslashes, brackets and line ends (the first
//! stage of Langdale and Lemire, Parsing Gigabytes of JSON per Second, 2019). It does not validate: the value is parsed later.

/// Maximum nesting that serde_json reads.
pub(crate) const MAX_DEPTH: usize = 127;

/// Positions of characters in 64 bytes, one bit per byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Masks {
    quote: u64,
    backslash: u64,
    /// `{` and `[`.
    open: u64,
    /// `}` and `]`.
    close: u64,
    line_end: u64,
}

const BLOCK: usize = 64;

impl Masks {
    #[cfg(target_arch = "x86_64")]
    fn of(block: &[u8; BLOCK]) -> Masks {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { Masks::of_sse2(block) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of(block: &[u8; BLOCK]) -> Masks {
        Masks::of_bytes(block)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    fn of_sse2(block: &[u8; BLOCK]) -> Masks {
        use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8};

        let mut masks = Masks::default();
        let (lanes, _) = block.as_chunks::<16>();
        for (lane, bytes) in lanes.iter().enumerate() {
            let number = u128::from_le_bytes(*bytes);
            let bytes = _mm_set_epi64x((number >> 64) as i64, number as i64);
            // `[` and `{` differ by the bit 0x20, `]` and `}` likewise.
            let folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
            let bits = |bytes: __m128i, wanted: u8| {
                let equal = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(wanted.cast_signed()));
                u64::from(_mm_movemask_epi8(equal) as u32) << (16 * lane)
            };
            masks.quote |= bits(bytes, b'"');
            masks.backslash |= bits(bytes, b'\\');
            masks.open |= bits(folded, b'{');
            masks.close |= bits(folded, b'}');
            masks.line_end |= bits(bytes, b'\n');
        }
        masks
    }

    /// The same without vector instructions.
    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn of_bytes(block: &[u8; BLOCK]) -> Masks {
        let mut masks = Masks::default();
        for (i, byte) in block.iter().enumerate() {
            masks.quote |= u64::from(*byte == b'"') << i;
            masks.backslash |= u64::from(*byte == b'\\') << i;
            masks.open |= u64::from(byte | 0x20 == b'{') << i;
            masks.close |= u64::from(byte | 0x20 == b'}') << i;
            masks.line_end |= u64::from(*byte == b'\n') << i;
        }
        masks
    }
}

/// The end of a value, as far as the available bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueEnd {
    /// The offset after its last byte.
    At(usize),
    /// The value is broken at this line end: a line break within a string, or another value starts on the next line.
    Broken(usize),
    /// Nesting is deeper than [`MAX_DEPTH`]. Reported once; the scan can continue.
    TooDeep,
    /// More bytes are needed.
    Unknown,
}

/// Scanner state within an object or a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanner {
    /// Offset of the first byte that has not been scanned.
    at: usize,
    depth: usize,
    /// All bits are set within a string.
    in_string: u64,
    /// 1 if the byte at `at` is escaped.
    escaped: u64,
    /// 1 if the byte at `at` is the first of a line.
    line_start: u64,
    /// Whether the nesting exceeded [`MAX_DEPTH`].
    too_deep: bool,
    /// Whether `too_deep` has been reported.
    reported: bool,
}

impl Scanner {
    /// `at`: the offset of the opening bracket.
    pub(crate) fn new(at: usize) -> Scanner {
        Scanner { at, depth: 0, in_string: 0, escaped: 0, line_start: 0, too_deep: false, reported: false }
    }

    /// Adjusts the offset after the bytes before `cut` have been removed.
    pub(crate) fn rebase(&mut self, cut: usize) {
        self.at -= cut;
    }

    /// Scans to the end of the value or of `bytes`. Unless `last`, a remainder below 64 bytes is left for the next call. In JSON Lines
    /// (`lines`), a `{` at the start of a line in a position where no value is allowed starts the next item.
    pub(crate) fn run(&mut self, bytes: &[u8], last: bool, lines: bool) -> ValueEnd {
        loop {
            let rest = &bytes[self.at..];
            let Some(block) = rest.first_chunk::<BLOCK>() else {
                if !last || rest.is_empty() {
                    return ValueEnd::Unknown;
                }
                let mut padded = [b' '; BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                let end = self.block(&padded, bytes, lines);
                self.at = bytes.len();
                return end;
            };
            match self.block(block, bytes, lines) {
                ValueEnd::Unknown => self.at += BLOCK,
                end => return end,
            }
            if self.too_deep && !self.reported {
                self.reported = true;
                return ValueEnd::TooDeep;
            }
        }
    }

    fn block(&mut self, block: &[u8; BLOCK], bytes: &[u8], lines: bool) -> ValueEnd {
        let masks = Masks::of(block);
        let quotes = masks.quote & !self.escapes(masks.backslash);
        // A bit is set if the number of quotes up to and including it is odd.
        let in_string = (0..6).fold(quotes, |bits, power| bits ^ (bits << (1 << power))) ^ self.in_string;
        self.in_string = (in_string.cast_signed() >> 63).cast_unsigned();
        let open = masks.open & !in_string;
        let close = masks.close & !in_string;
        let broken_lines = masks.line_end & in_string;
        let starts = if lines { open & ((masks.line_end << 1) | self.line_start) } else { 0 };
        self.line_start = masks.line_end >> 63;

        let closing = close.count_ones() as usize;
        if broken_lines | starts == 0 && self.depth > closing {
            self.depth = self.depth + open.count_ones() as usize - closing;
            self.too_deep |= self.depth > MAX_DEPTH;
            return ValueEnd::Unknown;
        }
        let mut left = open | close | broken_lines | starts;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            let at = self.at + left.trailing_zeros() as usize;
            left ^= bit;
            if broken_lines & bit != 0 {
                return ValueEnd::Broken(at);
            }
            if starts & bit != 0 && self.depth > 0 && !value_may_follow(&bytes[..at]) {
                return ValueEnd::Broken(at - 1);
            }
            if open & bit != 0 {
                self.depth += 1;
                self.too_deep |= self.depth > MAX_DEPTH;
            } else {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return ValueEnd::At(at + 1);
                }
            }
        }
        ValueEnd::Unknown
    }

    /// Bits of the bytes that a backslash escapes. A run of backslashes escapes the next byte if its length is odd. (From simdjson's
    /// json_escape_scanner: the subtraction carries through each run.)
    fn escapes(&mut self, backslash: u64) -> u64 {
        const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
        if backslash == 0 {
            return std::mem::take(&mut self.escaped);
        }
        let begins = backslash & !self.escaped;
        let runs = ((begins << 1) | ODD).wrapping_sub(begins) ^ ODD;
        let escaped = runs ^ (backslash | self.escaped);
        self.escaped = (runs & backslash) >> 63;
        escaped
    }
}

/// Whether a value may follow these bytes, which end within an object or a list.
fn value_may_follow(before: &[u8]) -> bool {
    before.iter().rev().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b',' | b'[' | b':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, byte by byte.
    fn plain(bytes: &[u8]) -> ValueEnd {
        let (mut depth, mut in_text, mut escaped) = (0, false, false);
        for (at, byte) in bytes.iter().enumerate() {
            match (in_text, byte) {
                (true, b'\n') => return ValueEnd::Broken(at),
                (true, _) if escaped => escaped = false,
                (true, b'\\') => escaped = true,
                (true, byte) => in_text = *byte != b'"',
                (false, b'"') => in_text = true,
                (false, b'{' | b'[') => depth += 1,
                (false, b'}' | b']') => {
                    depth -= 1;
                    if depth == 0 {
                        return ValueEnd::At(at + 1);
                    }
                }
                _ => {}
            }
        }
        ValueEnd::Unknown
    }

    proptest! {
        #[test]
        fn masks_are_the_same_with_and_without_vectors(bytes in prop::array::uniform32(any::<u8>()), text in "[\\[\\]{}\"\\\\\n a]{32}") {
            let mut block = [0; BLOCK];
            block[..32].copy_from_slice(&bytes);
            block[32..].copy_from_slice(text.as_bytes());
            prop_assert_eq!(Masks::of(&block), Masks::of_bytes(&block));
        }

        #[test]
        fn a_value_ends_where_its_brackets_close(text in "[\\[{]([\\[\\]{},a]|\"([\\[{}\\] a]|\\\\.|\\\\\\\\|\n?){0,70}\"){0,12}", cut in 0_usize..200) {
            let bytes = text.as_bytes();
            // Backslashes outside strings are invalid JSON, and the two implementations may differ there.
            let mut scan = Scanner::new(0);
            let cut = cut.min(bytes.len());
            let mut end = scan.run(&bytes[..cut], false, false);
            if end == ValueEnd::Unknown {
                end = scan.run(bytes, true, false);
            }
            prop_assert_eq!(end, plain(bytes), "{:?}", text);
        }
    }
}
