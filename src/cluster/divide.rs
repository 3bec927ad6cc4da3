//! Handing out work to processes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Hands out things of these costs, the dearest first, each to the process with the least so far; gives the process of each.
pub fn divide(costs: &[u64], size: usize) -> Vec<u32> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&i| Reverse(costs[i]));
    let mut loads: BinaryHeap<Reverse<(u64, u32)>> = (0..size as u32).map(|rank| Reverse((0, rank))).collect();
    let mut of = vec![0; costs.len()];
    for i in order {
        let Some(mut least) = loads.peek_mut() else { break };
        let Reverse((load, rank)) = *least;
        of[i] = rank;
        // Something without a cost still has one, or one process would have all of them.
        *least = Reverse((load + costs[i].max(1), rank));
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_has_a_process_and_loads_are_even(costs in prop::collection::vec(0u64..50, 0..200), size in 1usize..9) {
            let of = divide(&costs, size);
            prop_assert_eq!(of.len(), costs.len());
            let mut loads = vec![0u64; size];
            of.iter().zip(&costs).for_each(|(&rank, cost)| loads[rank as usize] += cost.max(&1));
            let dearest = costs.iter().copied().max().unwrap_or(0).max(1);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= dearest);
            prop_assert_eq!(of, divide(&costs, size));
        }
    }

    #[test]
    fn the_first_process_has_what_is_dearest() {
        assert_eq!(divide(&[1, 9, 1], 2), [1, 0, 1]);
        assert_eq!(divide(&[5], 3), [0], "who trains alone trains where checkpoints are written");
    }
}
