//! Kernels of `rank.cu` against ranks counted from a stored row of scores, exactly.

use lumos::check::reference;
use lumos_simt::check::Random;

/// Rank of a target that is masked.
const MISS: i32 = -1;

/// Users to rank: hidden states `[U, d]`, items `[I, d]`, targets, masked items.
struct Case {
    d: usize,
    h: Vec<f32>,
    table: Vec<f32>,
    target: Vec<i32>,
    masked: Vec<Vec<i32>>,
}

impl Case {
    /// Random users and items; every fifth item is the same as the one before, so that there are ties.
    fn random(seed: u64, users: usize, items: usize, d: usize) -> Case {
        let mut r = Random::new(seed);
        let (h, mut table) = (r.normals(1.0, users * d), r.normals(1.0, items * d));
        for i in (1..items).step_by(5) {
            table.copy_within((i - 1) * d..i * d, i * d);
        }
        let target: Vec<i32> = (0..users).map(|u| if u % 11 == 7 { -1 } else { r.below(items) as i32 }).collect();
        // Lists with repeats, some of which hold the target, some longer than a warp, some empty.
        let masked =
            (0..users).map(|u| (0..[3, 0, 40, 1][u % 4]).map(|i| if i == 2 { target[u].max(0) } else { r.below(items) as i32 }).collect());
        let masked = masked.collect();
        Case { d, h, table, target, masked }
    }

    fn expected(&self) -> Vec<i32> {
        let masked: Vec<Vec<u32>> = self.masked.iter().map(|list| list.iter().map(|&i| i as u32).collect()).collect();
        reference::rank(&self.h, &self.table, self.d, &self.target, &masked).ranks.into_iter().map(|r| r as i32).collect()
    }

    /// Ranks by the kernels, `slices` blocks over the items. `shift` moves the matrices off 16 bytes by so many floats.
    fn ranks(&self, slices: u32, shift: usize) -> Vec<i32> {
        let users = self.target.len();
        let moved = |v: &[f32]| [vec![f32::NAN; shift], v.to_vec()].concat();
        let (h, table) = (moved(&self.h), moved(&self.table));
        let (hp, tp) = (h[shift..].as_ptr(), table[shift..].as_ptr());
        let mut bounds = vec![0i32];
        bounds.extend(self.masked.iter().scan(0, |end, l| {
            *end += l.len() as i32;
            Some(*end)
        }));
        let masked = self.masked.concat();
        let (mut threshold, mut count) = (vec![f32::NAN; users], vec![-1i32; users]);
        let (u, i, d) = (users as i32, (self.table.len() / self.d) as i32, self.d as i32);
        let (tg, th, ct) = (self.target.as_ptr(), threshold.as_mut_ptr(), count.as_mut_ptr());
        let blocks = |each: usize| users.div_ceil(each) as u32;
        launch!("rank_targets", [blocks(128), 1, 1], [128, 1, 1], 0, hp, tp, tg, th, ct, u, d).unwrap();
        launch!("rank_count", [blocks(128), slices, 1], [256, 1, 1], 33792, hp, tp, th, ct, u, i, d).unwrap();
        let (bp, lp) = (bounds.as_ptr(), masked.as_ptr());
        launch!("rank_masked", [blocks(4), 1, 1], [128, 1, 1], 0, hp, tp, tg, th, bp, lp, ct, u, d).unwrap();
        count
    }
}

#[test]
fn ranks() {
    let shapes =
        [(1, 1, 1), (1, 200, 64), (130, 3, 5), (37, 131, 33), (129, 257, 8), (128, 128, 32), (5, 300, 68), (66, 67, 130), (13, 129, 31)];
    for (seed, (users, items, d)) in shapes.into_iter().enumerate() {
        let case = Case::random(seed as u64, users, items, d);
        let expected = case.expected();
        for slices in [1, items.div_ceil(128) as u32, 5] {
            for shift in [0, 1] {
                assert_eq!(case.ranks(slices, shift), expected, "{users} users, {items} items, d {d}, {slices} slices, shift {shift}");
            }
        }
    }
}

#[test]
fn ties_count_against_the_model() {
    let mut case = Case::random(3, 4, 50, 8);
    case.table = case.table[..8].repeat(50);
    case.target = vec![0, 49, 7, 3];
    case.masked = vec![vec![], vec![48, 1, 1], vec![6], vec![0, 1, 2, 4, 5]];
    assert_eq!(case.ranks(1, 0), [50, 48, 49, 45]);
    assert_eq!(case.ranks(1, 0), case.expected());
}

#[test]
fn a_masked_target_is_a_miss_wherever_it_stands_in_the_list() {
    let mut case = Case::random(5, 40, 90, 8);
    case.target = (0..40).map(|u| if u == 39 { -1 } else { u }).collect();
    // The target at every place of a list longer than a warp, once more at its end, and as the best item of all.
    case.masked = (0..40).map(|u| (0..40).map(|i| if i == u { u } else { 50 + (i * 7 + u) % 40 }).collect()).collect();
    case.masked[5].push(5);
    case.table[3 * 8..4 * 8].copy_from_slice(&case.h[3 * 8..4 * 8].iter().map(|x| 9.0 * x).collect::<Vec<_>>());
    let mut expected = vec![MISS; 40];
    expected[39] = 0;
    assert_eq!(case.ranks(1, 0), expected);
    case.masked = vec![vec![]; 40];
    assert_eq!(case.ranks(1, 0), case.expected());
    assert_eq!(case.ranks(1, 0)[3], 1);
}

#[test]
fn not_a_number_counts_against_the_model() {
    let mut case = Case::random(4, 20, 150, 12);
    // An item and a target that are not numbers; an infinite score.
    case.table[140 * 12 + 3] = f32::NAN;
    case.table[9 * 12] = f32::INFINITY;
    case.target[0] = 140;
    case.target[1] = 9;
    case.masked[2] = vec![140, 9, 140];
    case.h[12 * 5 + 2] = f32::NAN;
    let ranks = case.ranks(2, 0);
    assert_eq!(ranks, case.expected());
    assert!(ranks[0] >= 147 && ranks[5] >= 149);
}
