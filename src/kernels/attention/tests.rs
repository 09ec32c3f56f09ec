use crate::kernels::attention::head::Attention;
use crate::kernels::attention::usable;

/// Pseudorandom values from a seed, uniform between -1 and 1.
fn random_values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Attention from its definition, in f64: the result, and the gradients of queries, keys and values for the result's gradient `grad`.
fn reference_attention(attention: &Attention<'_>, [queries, keys, values, grad]: [&[f32]; 4]) -> [Vec<f64>; 4] {
    let &Attention { heads, key_heads, features, scale, window, .. } = attention;
    let at = |tensor: &[f32], heads: usize, token: usize, head: usize, feature: usize| {
        f64::from(tensor[(token * heads + head) * features + feature])
    };
    let [mut out, mut q, mut k, mut v] = [queries.len(), queries.len(), keys.len(), keys.len()].map(|count| vec![0.0; count]);
    let mut first_token = 0;
    for &length in attention.lengths {
        for (head, query) in (0..heads).flat_map(|head| (first_token..first_token + length).map(move |query| (head, query))) {
            let key_head = head / (heads / key_heads);
            let visible = (query + 1).saturating_sub(window).max(first_token)..query + 1;
            let product =
                |key| (0..features).map(|f| at(queries, heads, query, head, f) * at(keys, key_heads, key, key_head, f)).sum::<f64>();
            let exponentials: Vec<f64> = visible.clone().map(|key| (product(key) * f64::from(scale)).exp()).collect();
            let total: f64 = exponentials.iter().sum();
            let weights: Vec<f64> = exponentials.iter().map(|exponential| exponential / total).collect();
            let weight_grads: Vec<f64> = visible
                .clone()
                .map(|key| (0..features).map(|f| at(grad, heads, query, head, f) * at(values, key_heads, key, key_head, f)).sum())
                .collect();
            let mean_grad: f64 = weights.iter().zip(&weight_grads).map(|(weight, weight_grad)| weight * weight_grad).sum();
            for ((key, weight), weight_grad) in visible.zip(&weights).zip(&weight_grads) {
                let product_grad = weight * (weight_grad - mean_grad) * f64::from(scale);
                for f in 0..features {
                    let (query_at, key_at) = ((query * heads + head) * features + f, (key * key_heads + key_head) * features + f);
                    out[query_at] += weight * f64::from(values[key_at]);
                    q[query_at] += product_grad * f64::from(keys[key_at]);
                    k[key_at] += product_grad * f64::from(queries[query_at]);
                    v[key_at] += weight * f64::from(grad[query_at]);
                }
            }
        }
        first_token += length;
    }
    [out, q, k, v]
}

#[test]
fn forward_and_backward_match_the_definition_for_all_shapes_and_thread_counts() {
    if !usable(16) {
        eprintln!("skipped: this processor has no AVX-512");
        return;
    }
    let shapes: [(&[usize], usize, usize, usize, usize); 7] = [
        (&[1], 1, 1, 16, 100),
        (&[5, 1, 0, 40, 0], 2, 1, 32, 100),
        (&[37, 36, 35], 4, 2, 64, 100),
        (&[131], 2, 2, 128, 1000),
        (&[90, 17], 6, 2, 48, 20),
        (&[200], 1, 1, 80, 1),
        (&[], 2, 1, 16, 3),
    ];
    for (shape, (lengths, heads, key_heads, features, window)) in shapes.into_iter().enumerate() {
        let attention = Attention { lengths, heads, key_heads, features, scale: 0.4, window };
        let tokens: usize = lengths.iter().sum();
        let seed = shape as u64;
        let [queries, grad] = [1, 2].map(|offset| random_values(tokens * heads * features, 10 * seed + offset));
        let [keys, values] = [3, 4].map(|offset| random_values(tokens * key_heads * features, 10 * seed + offset));
        let [expected_out, expected_q, expected_k, expected_v] = reference_attention(&attention, [&queries, &keys, &values, &grad]);
        let assert_close = |actual: &[f32], expected: &[f64]| {
            for (actual, expected) in actual.iter().zip(expected) {
                assert!((f64::from(*actual) - expected).abs() < 2e-5 * (1.0 + expected.abs()), "{actual} {expected} in shape {shape}");
            }
        };
        let mut previous: Option<[Vec<f32>; 4]> = None;
        for threads in [1, 3] {
            let mut out = vec![9.0; queries.len()];
            let mut logsumexp = vec![9.0; tokens * heads];
            let [mut q, mut k, mut v] = [queries.len(), keys.len(), keys.len()].map(|count| vec![9.0; count]);
            attention.forward([&queries, &keys, &values], &mut out, &mut logsumexp, threads);
            attention.backward([&queries, &keys, &values, &out, &grad], &logsumexp, [&mut q, &mut k, &mut v], threads);
            assert_close(&out, &expected_out);
            assert_close(&q, &expected_q);
            assert_close(&k, &expected_k);
            assert_close(&v, &expected_v);
            let results = [out, q, k, v];
            assert!(previous.is_none_or(|previous| previous == results), "the result depends on the number of threads");
            previous = Some(results);
        }
    }
}

#[test]
fn large_products_stay_finite_and_nan_stays_nan() {
    if !usable(16) {
        return;
    }
    let attention = Attention { lengths: &[3], heads: 1, key_heads: 1, features: 16, scale: 1.0, window: 9 };
    let (mut queries, values) = (vec![30.0; 48], random_values(48, 1));
    let (mut out, mut logsumexp) = (vec![0.0; 48], vec![0.0; 3]);
    attention.forward([&queries, &queries, &values], &mut out, &mut logsumexp, 1);
    assert_eq!(out[..16], values[..16]);
    assert!(out.iter().all(|value| value.is_finite()));
    let too_long = Attention { lengths: &[usize::MAX, 4], ..attention };
    assert!(attention.fits(&[48], &[48]) && !too_long.fits(&[48], &[48]));
    queries[20] = f32::NAN;
    attention.forward([&queries, &values, &values], &mut out, &mut logsumexp, 1);
    assert!(out[..16].iter().all(|value| value.is_finite()) && out[16..32].iter().all(|value| value.is_nan()));
}
