//! The forms of each encoder give the same bytes, which decode to numbers near the given ones. (ggml's own bytes:
//! tests/python/test_kquants.py.)

use proptest::prelude::*;

use super::*;

fn searched() -> Vec<Format> {
    Format::ALL.into_iter().filter(|format| is_searched(*format)).collect()
}

fn encoded(format: Format, rows: Rows<'_>, form: Form) -> Vec<u8> {
    let mut out = vec![0; format.bytes(rows.numbers.len()).unwrap()];
    encode_rows(format, rows, form, &mut out);
    out
}

/// Numbers of any magnitude, often zero.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![6 => -1.0_f32..1.0, 1 => Just(0.0_f32), 1 => Just(-0.0_f32), 1 => any::<f32>().prop_filter("finite", |x| x.is_finite())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn all_forms_give_the_same_bytes(numbers in prop::collection::vec(number(), 3 * 512), importance in prop::collection::vec(0.0_f32..2.0, 512)) {
        for format in searched() {
            for importance in [None, Some(&importance[..])] {
                let rows = Rows { numbers: &numbers, columns: 512, importance };
                let plain = encoded(format, rows, Form::Plain);
                for form in Form::available() {
                    prop_assert!(encoded(format, rows, form) == plain, "{:?} {:?} {}", format, form, importance.is_some());
                }
            }
        }
    }
}

#[test]
fn decoded_numbers_are_near_the_given_ones() {
    let numbers: Vec<f32> = (0..2048).map(|i| ((i * 2_654_435_761_u64 % 1000) as f32 / 500.0 - 1.0) * 0.05).collect();
    for format in searched() {
        let bytes = encoded(format, Rows { numbers: &numbers, columns: 1024, importance: None }, Form::fastest());
        let mut decoded = vec![0.0; numbers.len()];
        decode(format, &bytes, &mut decoded);
        let error: f32 = numbers.iter().zip(&decoded).map(|(number, decoded)| (number - decoded).powi(2)).sum();
        let size: f32 = numbers.iter().map(|number| number * number).sum();
        // Noise of levels that are even: 1 / 4^bits of the square, and some for the scales.
        let bits = 8.0 * format.block().1 as f32 / format.block().0 as f32;
        assert!(error / size < 8.0 * 0.25_f32.powf(bits.floor()), "{format:?}: {}", error / size);
    }
}
