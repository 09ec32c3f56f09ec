//! Block formats: rows of float32 to bytes, and back.
//!
//! The bytes equal those of ggml's `ggml_quantize_chunk` in llama.cpp's builds for x86 processors, which fuse no multiplication with an
//! addition (builds for ARM do, and differ in a few bytes of ten thousand). The formats are described in ggml-common.h, the searches for
//! scales are in ggml-quants.c (both MIT).
//!
//! An encoder is one text for one number or a register of numbers ([`lanes`]): a lane is a block, so that sums within a block keep
//! their order. The three forms give the same bytes.

mod decode;
mod fit;
mod groups;
mod iq4;
mod lanes;
mod small;
mod symmetric;
#[cfg(test)]
mod tests;
mod with_min;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use decode::decode;
pub(crate) use groups::Rows;
use groups::{BlockEncoder, encode_groups};

use crate::gguf::types::Format;

/// The vectors that an encoder uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Form {
    /// The forms that this processor can execute, the fastest last.
    pub fn available() -> Vec<Form> {
        let mut forms = vec![Form::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                forms.push(Form::Avx2);
            }
            if std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vl")
            {
                forms.push(Form::Avx512);
            }
        }
        forms
    }

    pub fn fastest() -> Form {
        static FASTEST: std::sync::OnceLock<Form> = std::sync::OnceLock::new();
        *FASTEST.get_or_init(|| Form::available().pop().unwrap_or(Form::Plain))
    }
}

/// Whether this module encodes a format; the others are encoded by `gguf::encode`.
pub(crate) fn is_searched(format: Format) -> bool {
    !matches!(format, Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0)
}

/// Encodes rows of finite numbers in a format for which `is_searched`. `out` has exactly the length that they need.
pub(crate) fn encode_rows(format: Format, rows: Rows<'_>, form: Form, out: &mut [u8]) {
    debug_assert_eq!(format.bytes(rows.numbers.len()), Some(out.len()));
    debug_assert!(format.bytes(rows.columns).is_some() && rows.importance.is_none_or(|importance| importance.len() == rows.columns));
    match format {
        Format::Q4_0 => run::<small::Scaled<false>>(rows, form, out),
        Format::Q5_0 => run::<small::Scaled<true>>(rows, form, out),
        Format::Q4_1 => run::<small::WithMin<false>>(rows, form, out),
        Format::Q5_1 => run::<small::WithMin<true>>(rows, form, out),
        Format::Q2_K => run::<with_min::Q2K>(rows, form, out),
        Format::Q3_K => run::<symmetric::Q3K>(rows, form, out),
        Format::Q4_K => run::<with_min::Q4K>(rows, form, out),
        Format::Q5_K => run::<with_min::Q5K>(rows, form, out),
        Format::Q6_K => run::<symmetric::Q6K>(rows, form, out),
        Format::IQ4_NL => run::<iq4::Iq4Nl>(rows, form, out),
        Format::IQ4_XS => run::<iq4::Iq4Xs>(rows, form, out),
        Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0 => unreachable!("encoded by gguf::encode"),
    }
}

fn run<B: BlockEncoder>(rows: Rows<'_>, form: Form, out: &mut [u8]) {
    match form {
        Form::Plain => encode_groups::<f32, B>(rows, out),
        // SAFETY: a form is only made if the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Form::Avx2 => unsafe { run_avx2::<B>(rows, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Form::Avx512 => unsafe { run_avx512::<B>(rows, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<B: BlockEncoder>(rows: Rows<'_>, out: &mut [u8]) {
    encode_groups::<lanes::Pair<x86::Avx2>, B>(rows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn run_avx512<B: BlockEncoder>(rows: Rows<'_>, out: &mut [u8]) {
    encode_groups::<lanes::Pair<x86::Avx512>, B>(rows, out);
}
