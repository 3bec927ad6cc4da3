//! Many parties and their server in one process.

use super::{Client, Plan, Result, Server};
use crate::base::parallel;
use crate::privacy::Cost;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The sum of the vectors of all parties but the `silent` ones, which drop out after they have shared their secrets. `entropy(party)` gives a party's
/// randomness and `input(party)` its vector. Vectors are made, masked and added up a few at a time.
///
/// # Errors
/// As [`Server::finish`].
// The step below is of use here alone: a name for its type would say no more.
#[allow(clippy::type_complexity)]
pub fn simulate(
    plan: &Arc<Plan>,
    silent: &[u32],
    threads: usize,
    entropy: impl Fn(u32) -> [u8; 32] + Sync,
    input: impl Fn(u32) -> Vec<u64> + Sync,
) -> Result<(Vec<u64>, Cost)> {
    let n = plan.parties();
    let (up, down, clients_ns) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let mut server_s = 0.0;
    let clients: Vec<Mutex<Client>> = parallel::map(threads, n, 8, |i| Mutex::new(Client::new(plan.clone(), i as u32, entropy(i as u32))));
    let mut server = Server::new(plan.clone());
    // A step of some parties: what the server gives them, their answers, and what it takes.
    let mut step = |server: &mut Server,
                    parties: &[u32],
                    give: &mut dyn FnMut(&mut Server, u32) -> Vec<u8>,
                    answer: &(dyn Fn(&mut Client, u32, &[u8]) -> Result<Vec<u8>> + Sync)|
     -> Result<()> {
        for some in parties.chunks(4 * threads.max(1)) {
            let begun = Instant::now();
            let given: Vec<Vec<u8>> = some.iter().map(|&party| give(server, party)).collect();
            server_s += begun.elapsed().as_secs_f64();
            let answers = parallel::map(threads, some.len(), 1, |i| {
                let begun = Instant::now();
                let answer = answer(&mut clients[some[i] as usize].lock(), some[i], &given[i]);
                clients_ns.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
                down.fetch_add(given[i].len() as u64, Ordering::Relaxed);
                answer
            });
            let begun = Instant::now();
            for answer in answers {
                let answer = answer?;
                up.fetch_add(answer.len() as u64, Ordering::Relaxed);
                server.receive(&answer)?;
            }
            server_s += begun.elapsed().as_secs_f64();
        }
        Ok(())
    };
    let all: Vec<u32> = (0..n as u32).collect();
    let there: Vec<u32> = all.iter().copied().filter(|party| !silent.contains(party)).collect();
    step(&mut server, &all, &mut |_, _| Vec::new(), &|client, _, _| Ok(client.keys()))?;
    step(&mut server, &all, &mut |server, party| server.directory(party), &|client, _, message| client.shares(message))?;
    step(&mut server, &there, &mut |server, party| server.delivery(party), &|client, party, message| {
        client.masked(message, &input(party))
    })?;
    step(&mut server, &there, &mut |server, party| server.arrived(party), &|client, _, message| client.unmask(message))?;
    let begun = Instant::now();
    let sum = server.finish()?;
    server_s += begun.elapsed().as_secs_f64();
    let cost = Cost {
        parties: n as u64,
        neighbours: plan.neighbours(0).len() as u64,
        dropped: silent.len() as u64,
        bytes_up: up.into_inner(),
        bytes_down: down.into_inner(),
        client_s: clients_ns.into_inner() as f64 * 1e-9 / n as f64,
        server_s,
    };
    Ok((sum, cost))
}
