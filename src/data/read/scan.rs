//! Finds where a JSON value ends, 64 bytes at a time: bit masks of quotes, backslashes, brackets and line ends, then arithmetic on
//! them (the first stage of Langdale and Lemire, Parsing Gigabytes of JSON per Second, 2019). It does not judge: what it cuts out is
//! parsed later.

/// Nesting that serde_json reads at most.
pub(crate) const DEEPEST: usize = 127;

/// Where the characters of 64 bytes stand, a bit for each byte.
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

/// Where a value ends, as far as the bytes at hand tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The offset after its last byte.
    At(usize),
    /// It is broken at this line end: there is one within a text, or another value begins in the next line.
    Broken(usize),
    /// It is deeper than any parser follows; said once, and the scan may go on.
    TooDeep,
    /// The bytes end first.
    Unknown,
}

/// The state within an object or a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    /// Offset of the first byte that was not looked at.
    at: usize,
    depth: usize,
    /// All bits set within a text.
    in_text: u64,
    /// 1 if the byte at `at` is escaped.
    escaped: u64,
    /// 1 if the byte at `at` is the first of a line.
    line_start: u64,
    /// Went deeper than any parser follows, and whether that was said.
    too_deep: bool,
    told: bool,
}

impl Scan {
    /// `at`: the offset of the opening bracket.
    pub(crate) fn new(at: usize) -> Scan {
        Scan { at, depth: 0, in_text: 0, escaped: 0, line_start: 0, too_deep: false, told: false }
    }

    /// The bytes before `cut` are gone.
    pub(crate) fn rebase(&mut self, cut: usize) {
        self.at -= cut;
    }

    /// Goes on to the end of the value, or of `bytes` but for a rest below 64 bytes if more may follow. In JSON lines
    /// (`lines`) a `{` at the beginning of a line, where no value may stand, begins the next one.
    pub(crate) fn run(&mut self, bytes: &[u8], last: bool, lines: bool) -> End {
        loop {
            let rest = &bytes[self.at..];
            let Some(block) = rest.first_chunk::<BLOCK>() else {
                if !last || rest.is_empty() {
                    return End::Unknown;
                }
                let mut padded = [b' '; BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                let end = self.block(&padded, bytes, lines);
                self.at = bytes.len();
                return end;
            };
            match self.block(block, bytes, lines) {
                End::Unknown => self.at += BLOCK,
                end => return end,
            }
            if self.too_deep && !self.told {
                self.told = true;
                return End::TooDeep;
            }
        }
    }

    fn block(&mut self, block: &[u8; BLOCK], bytes: &[u8], lines: bool) -> End {
        let masks = Masks::of(block);
        let quotes = masks.quote & !self.escapes(masks.backslash);
        // Each bit is set that has an odd number of quotes at or before it.
        let in_text = (0..6).fold(quotes, |bits, power| bits ^ (bits << (1 << power))) ^ self.in_text;
        self.in_text = (in_text.cast_signed() >> 63).cast_unsigned();
        let open = masks.open & !in_text;
        let close = masks.close & !in_text;
        let torn = masks.line_end & in_text;
        let starts = if lines { open & ((masks.line_end << 1) | self.line_start) } else { 0 };
        self.line_start = masks.line_end >> 63;

        let closing = close.count_ones() as usize;
        if torn | starts == 0 && self.depth > closing {
            self.depth = self.depth + open.count_ones() as usize - closing;
            self.too_deep |= self.depth > DEEPEST;
            return End::Unknown;
        }
        let mut left = open | close | torn | starts;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            let at = self.at + left.trailing_zeros() as usize;
            left ^= bit;
            if torn & bit != 0 {
                return End::Broken(at);
            }
            if starts & bit != 0 && self.depth > 0 && !value_may_follow(&bytes[..at]) {
                return End::Broken(at - 1);
            }
            if open & bit != 0 {
                self.depth += 1;
                self.too_deep |= self.depth > DEEPEST;
            } else {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return End::At(at + 1);
                }
            }
        }
        End::Unknown
    }

    /// The bits of bytes that a backslash escapes; a run of backslashes escapes what follows if its length is odd (after simdjson's
    /// json_escape_scanner: the subtraction carries through each run).
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

/// Whether a value may stand after these bytes, which end within an object or a list.
fn value_may_follow(before: &[u8]) -> bool {
    before.iter().rev().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b',' | b'[' | b':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Byte by byte.
    fn plain(bytes: &[u8]) -> End {
        let (mut depth, mut in_text, mut escaped) = (0, false, false);
        for (at, byte) in bytes.iter().enumerate() {
            match (in_text, byte) {
                (true, b'\n') => return End::Broken(at),
                (true, _) if escaped => escaped = false,
                (true, b'\\') => escaped = true,
                (true, byte) => in_text = *byte != b'"',
                (false, b'"') => in_text = true,
                (false, b'{' | b'[') => depth += 1,
                (false, b'}' | b']') => {
                    depth -= 1;
                    if depth == 0 {
                        return End::At(at + 1);
                    }
                }
                _ => {}
            }
        }
        End::Unknown
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
            // Backslashes outside of texts are no JSON, and the two readings may differ there.
            let mut scan = Scan::new(0);
            let cut = cut.min(bytes.len());
            let mut end = scan.run(&bytes[..cut], false, false);
            if end == End::Unknown {
                end = scan.run(bytes, true, false);
            }
            prop_assert_eq!(end, plain(bytes), "{:?}", text);
        }
    }
}
