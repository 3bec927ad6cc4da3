//! The rendition of CUDA on the CPU, tested by kernels of its own.

use lumos_simt::{check::Random, find, kernels};

#[test]
fn blocks_add_up() {
    let mut r = Random::new(1);
    let (blocks, n) = (5, 203);
    let x = r.normals(1.0, blocks * n);
    let mut y = vec![0f32; 3 * blocks];
    for threads in [32, 96, 1024] {
        launch!("selftest_block_sum", [blocks as u32, 1, 1], [threads, 1, 1], 128, x.as_ptr(), y.as_mut_ptr(), n as i32).unwrap();
        for b in 0..blocks {
            let sum: f64 = x[b * n..(b + 1) * n].iter().map(|&v| f64::from(v)).sum();
            assert!((f64::from(y[3 * b]) - sum).abs() < 1e-4);
            assert_eq!((y[3 * b + 1], y[3 * b + 2]), (threads as f32, (threads - 1) as f32));
        }
    }
}

#[test]
fn half_warps_and_early_exit() {
    let n = 2 * 64 + 37;
    let mut out = vec![-1i32; n];
    launch!("selftest_half_warps", [3, 1, 1], [64, 1, 1], 0, out.as_mut_ptr(), n as i32).unwrap();
    // The last half warp that is whole; the one after it holds 5 lanes.
    for (i, &v) in out.iter().enumerate().take(2 * 64 + 32) {
        let first = i / 16 * 16;
        let expected = if i & 16 != 0 { (first..first + 16).sum() } else { (i + 1).min(first + 15) };
        assert_eq!(v as usize, expected, "{i}");
    }
}

#[test]
fn votes() {
    let mut out = vec![0u32; 6 * 96];
    launch!("selftest_votes", [1, 1, 1], [96, 1, 1], 0, out.as_mut_ptr()).unwrap();
    for (t, o) in out.chunks(6).enumerate() {
        assert_eq!(o, [0xaaaa_aaaa, u32::from(t < 64), u32::from(t < 32), 32, 0, 1], "{t}");
    }
}

#[test]
fn atomics_over_blocks_and_threads() {
    let mut r = Random::new(2);
    let x: Vec<u32> = (0..5000).map(|_| r.bits() as u32).collect();
    let (mut sum, mut low) = (0i64, u32::MAX);
    launch!("selftest_atomics", [40, 1, 1], [128, 1, 1], 0, &raw mut sum, &raw mut low, x.as_ptr(), 5000i32).unwrap();
    assert_eq!((sum, low), (x.iter().map(|&v| i64::from(v)).sum(), *x.iter().min().unwrap()));
}

#[test]
fn shared_memory_nobody_wrote_is_not_a_number() {
    let mut out = vec![0f32; 64];
    launch!("selftest_unwritten", [1, 1, 1], [64, 1, 1], 256, out.as_mut_ptr()).unwrap();
    assert!(out.iter().enumerate().all(|(i, v)| v.is_nan() == (i == 5)));
}

#[test]
fn what_hangs_or_overruns_is_reported() {
    let error = |name: &str, shared: usize| launch!(name, [2, 1, 1], [64, 1, 1], shared, 16i32).unwrap_err();
    let message = error("selftest_deadlock", 0);
    assert!(message.contains("selftest_deadlock") && message.contains("deadlock") && message.contains("thread ("), "{message}");
    assert!(error("selftest_wrong_mask", 0).contains("mask"));
    assert!(error("selftest_overrun", 64).contains("past the end"));
    launch!("selftest_overrun", [2, 1, 1], [64, 1, 1], 68, 16i32).unwrap();
}

#[test]
fn a_launch_the_gpu_would_refuse_is_refused() {
    let mut out = vec![0i32; 8];
    let p = out.as_mut_ptr();
    let refused = |grid: [u32; 3], block: [u32; 3], shared: usize, word: &str| {
        let message = launch!("selftest_places", grid, block, shared, p).unwrap_err();
        assert!(message.contains(word), "{message}");
    };
    refused([1, 1, 1], [1025, 1, 1], 0, "1025");
    refused([1, 1, 1], [0, 1, 1], 0, "block");
    refused([0, 1, 1], [1, 1, 1], 0, "grid");
    refused([1, 70_000, 1], [1, 1, 1], 0, "grid");
    refused([1, 1, 1], [1, 1, 1], 300_000, "shared");
    assert!(launch!("selftest_places", [1, 1, 1], [1, 1, 1], 0, p, 1i32).unwrap_err().contains("arguments"));
    assert!(launch!("selftest_places", [1, 1, 1], [1, 1, 1], 0, 1i32).unwrap_err().contains("arguments"));
    assert!(find("no_such_kernel").is_none());
    assert!(kernels().any(|k| k == "selftest_places"));
}

#[test]
fn places_in_three_dimensions() {
    let (grid, block) = ([3u32, 2, 4], [5u32, 3, 2]);
    let n: u32 = grid.iter().chain(&block).product();
    let mut out = vec![0i32; n as usize];
    launch!("selftest_places", grid, block, 0, out.as_mut_ptr()).unwrap();
    assert!(out.iter().enumerate().all(|(i, &v)| v == i as i32 + 1));
}

/// The generator once more, written from its definition.
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (a, b) = (0xD251_1F53u64 * u64::from(c[0]), 0xCD9E_8D57u64 * u64::from(c[2]));
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

#[test]
fn random_words() {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Pair(f32, i32);
    let mut r = Random::new(3);
    let counters: Vec<u32> = (0..4 * 32).map(|_| r.bits() as u32).collect();
    let mut out = vec![0u32; 4 * 32];
    let (k0, k1) = (r.bits() as u32, r.bits() as u32);
    launch!("selftest_philox", [1, 1, 1], [32, 1, 1], 0, counters.as_ptr(), out.as_mut_ptr(), k0, k1, Pair(3.0, 7), 2i8).unwrap();
    for (c, o) in counters.chunks(4).zip(out.chunks(4)) {
        let expected = philox([c[0], c[1], c[2], c[3]], [k0, k1]).map(|w| w.wrapping_add(42));
        assert_eq!(o, expected);
    }
    // The published answer for a counter and key of zeros.
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
}
