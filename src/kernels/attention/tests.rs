use crate::kernels::attention::head::Attention;
use crate::kernels::attention::usable;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The textbook's, in f64: the result, and for the gradient `grad` of it those of queries, keys and values.
fn exact(attention: &Attention<'_>, [queries, keys, values, grad]: [&[f32]; 4]) -> [Vec<f64>; 4] {
    let &Attention { heads, key_heads, features, scale, window, .. } = attention;
    let at =
        |of: &[f32], heads: usize, token: usize, head: usize, feature: usize| f64::from(of[(token * heads + head) * features + feature]);
    let [mut out, mut q, mut k, mut v] = [queries.len(), queries.len(), keys.len(), keys.len()].map(|count| vec![0.0; count]);
    let mut first = 0;
    for &length in attention.lengths {
        for (head, query) in (0..heads).flat_map(|head| (first..first + length).map(move |query| (head, query))) {
            let key_head = head / (heads / key_heads);
            let seen = (query + 1).saturating_sub(window).max(first)..query + 1;
            let product =
                |key| (0..features).map(|f| at(queries, heads, query, head, f) * at(keys, key_heads, key, key_head, f)).sum::<f64>();
            let exponents: Vec<f64> = seen.clone().map(|key| (product(key) * f64::from(scale)).exp()).collect();
            let total: f64 = exponents.iter().sum();
            let weights: Vec<f64> = exponents.iter().map(|exponent| exponent / total).collect();
            let slopes: Vec<f64> = seen
                .clone()
                .map(|key| (0..features).map(|f| at(grad, heads, query, head, f) * at(values, key_heads, key, key_head, f)).sum())
                .collect();
            let along: f64 = weights.iter().zip(&slopes).map(|(weight, slope)| weight * slope).sum();
            for ((key, weight), slope) in seen.zip(&weights).zip(&slopes) {
                let of_product = weight * (slope - along) * f64::from(scale);
                for f in 0..features {
                    let (mine, theirs) = ((query * heads + head) * features + f, (key * key_heads + key_head) * features + f);
                    out[mine] += weight * f64::from(values[theirs]);
                    q[mine] += of_product * f64::from(keys[theirs]);
                    k[theirs] += of_product * f64::from(queries[mine]);
                    v[theirs] += weight * f64::from(grad[mine]);
                }
            }
        }
        first += length;
    }
    [out, q, k, v]
}

#[test]
fn both_are_the_textbooks_whatever_the_shape_and_the_threads() {
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
    for (number, (lengths, heads, key_heads, features, window)) in shapes.into_iter().enumerate() {
        let attention = Attention { lengths, heads, key_heads, features, scale: 0.4, window };
        let tokens: usize = lengths.iter().sum();
        let seed = number as u64;
        let [queries, grad] = [1, 2].map(|more| numbers(tokens * heads * features, 10 * seed + more));
        let [keys, values] = [3, 4].map(|more| numbers(tokens * key_heads * features, 10 * seed + more));
        let [wanted_out, wanted_q, wanted_k, wanted_v] = exact(&attention, [&queries, &keys, &values, &grad]);
        let close = |ours: &[f32], exact: &[f64]| {
            for (ours, exact) in ours.iter().zip(exact) {
                assert!((f64::from(*ours) - exact).abs() < 2e-5 * (1.0 + exact.abs()), "{ours} {exact} in shape {number}");
            }
        };
        let mut before: Option<[Vec<f32>; 4]> = None;
        for threads in [1, 3] {
            let mut out = vec![9.0; queries.len()];
            let mut divisors = vec![9.0; tokens * heads];
            let [mut q, mut k, mut v] = [queries.len(), keys.len(), keys.len()].map(|count| vec![9.0; count]);
            attention.forward([&queries, &keys, &values], &mut out, &mut divisors, threads);
            attention.backward([&queries, &keys, &values, &out, &grad], &divisors, [&mut q, &mut k, &mut v], threads);
            close(&out, &wanted_out);
            close(&q, &wanted_q);
            close(&k, &wanted_k);
            close(&v, &wanted_v);
            let made = [out, q, k, v];
            assert!(before.is_none_or(|before| before == made), "the threads show");
            before = Some(made);
        }
    }
}

#[test]
fn large_products_are_no_infinity_and_no_numbers_stay_none() {
    if !usable(16) {
        return;
    }
    let attention = Attention { lengths: &[3], heads: 1, key_heads: 1, features: 16, scale: 1.0, window: 9 };
    let (mut queries, values) = (vec![30.0; 48], numbers(48, 1));
    let (mut out, mut divisors) = (vec![0.0; 48], vec![0.0; 3]);
    attention.forward([&queries, &queries, &values], &mut out, &mut divisors, 1);
    assert_eq!(out[..16], values[..16]);
    assert!(out.iter().all(|number| number.is_finite()));
    let far = Attention { lengths: &[usize::MAX, 4], ..attention };
    assert!(attention.fits(&[48], &[48]) && !far.fits(&[48], &[48]));
    queries[20] = f32::NAN;
    attention.forward([&queries, &values, &values], &mut out, &mut divisors, 1);
    assert!(out[..16].iter().all(|number| number.is_finite()) && out[16..32].iter().all(|number| number.is_nan()));
}
