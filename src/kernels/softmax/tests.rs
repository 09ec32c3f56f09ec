use crate::kernels::softmax::{softmax, usable};

/// Numbers from a seed, evenly between -1 and 1.
fn numbers(count: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The softmax's divisor's logarithm and the sums over it, by the textbook and in f64.
fn plain(hidden: &[f32], weight: &[f32], features: usize) -> Vec<(f64, Vec<f64>)> {
    let row = |row: &[f32]| {
        let dot = |word: &[f32]| -> f64 { row.iter().zip(word).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let logits: Vec<f64> = weight.chunks(features).map(dot).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        let mean = |at: usize| weight.chunks(features).zip(&logits).map(|(w, l)| f64::from(w[at]) * (l - largest).exp()).sum::<f64>();
        (largest + total.ln(), (0..features).map(|at| mean(at) / total).collect())
    };
    hidden.chunks(features).map(row).collect()
}

#[test]
fn the_pass_is_the_softmax_of_the_textbook() {
    if !usable(8) {
        eprintln!("skipped: this processor has no AVX-512");
        return;
    }
    for (seed, (rows, words, features)) in
        [(1, 1, 8), (3, 7, 16), (16, 96, 8), (17, 97, 24), (48, 200, 64), (50, 1003, 40), (129, 515, 8)].into_iter().enumerate()
    {
        for (threads, scale) in [(1, 1.0), (2, 30.0), (5, 0.01)] {
            let hidden: Vec<f32> = numbers(rows * features, seed as u64).iter().map(|number| number * scale).collect();
            let weight = numbers(words * features, 99 + seed as u64);
            let made = softmax(&hidden, &weight, features, threads, true);
            let without = softmax(&hidden, &weight, features, threads, false);
            assert!(without.sums.is_empty() && without.total == made.total && without.reference == made.reference);
            assert_eq!(made, softmax(&hidden, &weight, features, threads, true));
            for (row, (logarithm, means)) in plain(&hidden, &weight, features).into_iter().enumerate() {
                let ours = f64::from(made.reference[row]) + f64::from(made.total[row]).ln();
                assert!(
                    (ours - logarithm).abs() < 2e-6 * (1.0 + logarithm.abs() + f64::from(scale)),
                    "{rows} {words} {features} {threads}: {ours} {logarithm}"
                );
                for (at, mean) in means.into_iter().enumerate() {
                    let ours = f64::from(made.sums[row * features + at]) / f64::from(made.total[row]);
                    assert!((ours - mean).abs() < 2e-6 * f64::from(1.0 + scale), "{rows} {words} {features} {threads}: {ours} {mean}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_or_very_large_shows() {
    if !usable(8) {
        return;
    }
    let weight = numbers(40 * 8, 7);
    let mut hidden = numbers(3 * 8, 3);
    hidden[8] = f32::NAN;
    hidden[16..24].fill(1e30);
    let made = softmax(&hidden, &weight, 8, 2, true);
    let of = |row: usize| made.reference[row] + made.total[row].ln();
    assert!(of(0).is_finite() && of(1).is_nan());
    assert!(of(2).is_finite() && of(2) > 1e29 && made.total[2] >= 1.0 && made.sums[16..24].iter().all(|sum| sum.is_finite()));
}
