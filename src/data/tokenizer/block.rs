//! Sixteen bytes of text, classified at once: most words lie within them, and are cut without looking at one byte after the other.

pub(crate) const BLOCK: usize = 16;

/// Which of sixteen bytes are what: the first byte is the lowest bit. Letters, digits and the like are those of ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Classes {
    letters: u32,
    digits: u32,
    /// White space of any sort.
    spaces: u32,
    blanks: u32,
    newlines: u32,
    /// Bytes of characters beyond ASCII.
    wide: u32,
}

impl Classes {
    /// The length of the word that the bytes begin with, 0 where they do not tell: characters beyond ASCII, words that may go on
    /// behind them, contractions, white space but blanks. (The pattern stands in `pretokenize`.)
    #[inline]
    pub(crate) fn word(self, first: u8) -> usize {
        let Classes { letters, digits, spaces, blanks, newlines, wide } = self;
        let others = !(letters | digits | spaces | wide) & ((1 << BLOCK) - 1);
        // Where a run that holds the second byte, and any first, ends.
        let behind = |set: u32| (!(set >> 1)).trailing_zeros() + 1;
        // Letters, perhaps behind one character that is neither letter, digit nor newline.
        let lettered = (letters | (!(digits | newlines | wide) & letters >> 1)) & 1 != 0;
        // Blanks but the last, which goes with what stands behind it.
        let blank = blanks & blanks >> 1 & 1 != 0;
        // Anything else, perhaps behind a blank, and the newlines behind it.
        let other = (others | (blanks & others >> 1)) & 1 != 0;
        let end = if lettered {
            behind(letters)
        } else if blank {
            behind(blanks)
        } else {
            let end = behind(others);
            end + (!(newlines >> end)).trailing_zeros()
        };
        // What stands behind must be seen, and be ASCII; behind blanks no other white space, which would be one run with them.
        let decided = end < BLOCK as u32 && (wide | if blank { spaces } else { 0 }) >> end & 1 == 0;
        if digits & 1 != 0 {
            1
        } else if (lettered && first != b'\'' || !lettered && (blank || other)) && decided {
            end as usize - usize::from(blank && !lettered)
        } else {
            0
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn of(block: u128) -> Classes {
        // SAFETY: every x86-64 has SSE2.
        unsafe { Classes::by_sse2(block) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "sse2")]
    fn by_sse2(block: u128) -> Classes {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_sub_epi8,
        };
        // It compares signed bytes: a range is moved down to the lowest of them.
        let bytes = _mm_set_epi64x((block >> 64) as i64, block as i64);
        let bits = |found: __m128i| _mm_movemask_epi8(found) as u32;
        let every = |byte: u8| _mm_set1_epi8(byte as i8);
        let between = |bytes: __m128i, first: u8, last: u8| {
            let moved = _mm_sub_epi8(bytes, every(first.wrapping_add(0x80)));
            bits(_mm_cmplt_epi8(moved, every((last - first + 1).wrapping_add(0x80))))
        };
        let equal = |byte: u8| bits(_mm_cmpeq_epi8(bytes, every(byte)));
        let blanks = equal(b' ');
        Classes {
            letters: between(_mm_or_si128(bytes, every(0x20)), b'a', b'z'),
            digits: between(bytes, b'0', b'9'),
            spaces: between(bytes, b'\t', b'\r') | blanks,
            blanks,
            newlines: equal(b'\n') | equal(b'\r'),
            wide: bits(bytes),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn of(block: u128) -> Classes {
        Classes::by_bytes(block)
    }

    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn by_bytes(block: u128) -> Classes {
        let bits =
            |wanted: fn(u8) -> bool| block.to_le_bytes().iter().enumerate().fold(0, |bits, (i, byte)| bits | u32::from(wanted(*byte)) << i);
        Classes {
            letters: bits(|byte| byte.is_ascii_alphabetic()),
            digits: bits(|byte| byte.is_ascii_digit()),
            spaces: bits(|byte| matches!(byte, b'\t'..=b'\r' | b' ')),
            blanks: bits(|byte| byte == b' '),
            newlines: bits(|byte| matches!(byte, b'\n' | b'\r')),
            wide: bits(|byte| !byte.is_ascii()),
        }
    }
}

/// The first bytes of a block by their number, all others zero, and that number as the last byte; 0 for a whole block, whose last
/// byte is taken.
#[inline]
pub(crate) fn key(block: u128, length: usize) -> u128 {
    match KEPT.get(length) {
        Some(kept) => block & kept | (length as u128) << 120,
        None => 0,
    }
}

const KEPT: [u128; BLOCK] = {
    let mut kept = [0; BLOCK];
    let mut length = 0;
    while length < BLOCK {
        kept[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    kept
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_classified_together_as_one_by_one(block: [u8; BLOCK]) {
            let block = u128::from_le_bytes(block);
            prop_assert_eq!(Classes::of(block), Classes::by_bytes(block));
        }
    }
}
