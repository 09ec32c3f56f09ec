use crate::base::threads::tests::without_threads;
use crate::kernels::softmax::{softmax, usable};

/// Pseudorandom values from a seed, uniform between -1 and 1.
fn random_values(count: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The log-sum-exp of each row's logits, and the mean of the weight rows under its softmax, from the definition and in f64.
fn reference_softmax(hidden: &[f32], weight: &[f32], features: usize) -> Vec<(f64, Vec<f64>)> {
    let softmax_of_row = |row: &[f32]| {
        let dot = |token: &[f32]| -> f64 { row.iter().zip(token).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let logits: Vec<f64> = weight.chunks(features).map(dot).collect();
        let maximum = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|logit| (logit - maximum).exp()).sum();
        let mean = |at: usize| weight.chunks(features).zip(&logits).map(|(w, l)| f64::from(w[at]) * (l - maximum).exp()).sum::<f64>();
        (maximum + total.ln(), (0..features).map(|at| mean(at) / total).collect())
    };
    hidden.chunks(features).map(softmax_of_row).collect()
}

#[test]
fn the_softmax_matches_the_definition() {
    if !usable(8) {
        eprintln!("skipped: this processor has no AVX-512");
        return;
    }
    for (seed, (rows, vocabulary, features)) in
        [(1, 1, 8), (3, 7, 16), (16, 96, 8), (17, 97, 24), (48, 200, 64), (50, 1003, 40), (129, 515, 8)].into_iter().enumerate()
    {
        for (threads, scale) in [(1, 1.0), (2, 30.0), (5, 0.01)] {
            let hidden: Vec<f32> = random_values(rows * features, seed as u64).iter().map(|value| value * scale).collect();
            let weight = random_values(vocabulary * features, 99 + seed as u64);
            let targets: Vec<usize> = (0..rows).map(|row| row * 31 % vocabulary).collect();
            let result = softmax(&hidden, &weight, features, &targets, threads, true);
            let without_sums = softmax(&hidden, &weight, features, &targets, threads, false);
            assert!(without_sums.sums.is_empty() && without_sums.total == result.total && without_sums.reference == result.reference);
            assert_eq!(result, softmax(&hidden, &weight, features, &targets, threads, true));
            assert_eq!(
                result,
                without_threads(|| softmax(&hidden, &weight, features, &targets, threads, true)),
                "the same without threads"
            );
            for (row, target) in targets.iter().enumerate() {
                let [row_values, token] = [&hidden[row * features..], &weight[target * features..]].map(|values| &values[..features]);
                let logit: f64 = row_values.iter().zip(token).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((f64::from(result.target_logit[row]) - logit).abs() < 2e-6 * (1.0 + logit.abs() + f64::from(scale)));
            }
            for (row, (logsumexp, means)) in reference_softmax(&hidden, &weight, features).into_iter().enumerate() {
                let actual = f64::from(result.reference[row]) + f64::from(result.total[row]).ln();
                assert!(
                    (actual - logsumexp).abs() < 2e-6 * (1.0 + logsumexp.abs() + f64::from(scale)),
                    "{rows} {vocabulary} {features} {threads}: {actual} {logsumexp}"
                );
                for (at, mean) in means.into_iter().enumerate() {
                    let actual = f64::from(result.sums[row * features + at]) / f64::from(result.total[row]);
                    assert!(
                        (actual - mean).abs() < 2e-6 * f64::from(1.0 + scale),
                        "{rows} {vocabulary} {features} {threads}: {actual} {mean}"
                    );
                }
            }
        }
    }
}

#[test]
fn nan_stays_nan_and_very_large_logits_stay_finite() {
    if !usable(8) {
        return;
    }
    let weight = random_values(40 * 8, 7);
    let mut hidden = random_values(3 * 8, 3);
    hidden[8] = f32::NAN;
    hidden[16..24].fill(1e30);
    let result = softmax(&hidden, &weight, 8, &[0, 20, 39], 2, true);
    let row_logsumexp = |row: usize| result.reference[row] + result.total[row].ln();
    assert!(row_logsumexp(0).is_finite() && row_logsumexp(1).is_nan());
    assert!(
        row_logsumexp(2).is_finite()
            && row_logsumexp(2) > 1e29
            && result.total[2] >= 1.0
            && result.sums[16..24].iter().all(|sum| sum.is_finite())
    );
}
