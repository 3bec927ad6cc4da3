//! The protocol as a whole: the sum, who drops out, and what is refused.

use super::*;
use std::sync::Arc;

fn entropy(party: u32) -> [u8; 32] {
    Sha256::digest(format!("entropy {party}")).into()
}

fn input(party: u32, length: usize) -> Vec<u64> {
    let mut stream = Stream::new(7, Purpose::Bench, 0, party.into());
    // Negative numbers as they wrap.
    (0..length).map(|_| (i64::from(stream.u32() as i32) * 1_234_567) as u64).collect()
}

fn plain(parties: impl Iterator<Item = u32>, length: usize) -> Vec<u64> {
    let mut sum = vec![0u64; length];
    for party in parties {
        sum.iter_mut().zip(input(party, length)).for_each(|(sum, x)| *sum = sum.wrapping_add(x));
    }
    sum
}

#[test]
fn the_sum_has_the_bits_of_a_plain_one_whoever_drops_out() {
    for (n, k, length, silent) in
        [(2, 0, 3, vec![]), (5, 0, 700, vec![3]), (12, 0, 50, vec![0, 4, 11]), (60, 10, 33, vec![1, 20, 59]), (200, 0, 5, vec![7])]
    {
        let plan = Arc::new(Plan::new(3, n as u64, n, k, length));
        let run = |threads| simulate(&plan, &silent, threads, entropy, |party| input(party, length)).unwrap();
        let (sum, cost) = run(1);
        assert_eq!(sum, plain((0..n as u32).filter(|party| !silent.contains(party)), length), "{n} {k}");
        assert_eq!(run(3).0, sum);
        assert!(cost.dropped == silent.len() as u64 && cost.bytes_up > (8 * length * (n - silent.len())) as u64, "{cost:?}");
    }
}

#[test]
fn neighbours_are_mutual_and_as_many_as_planned() {
    for (n, k) in [(2, 0), (30, 0), (31, 6), (100, 7), (500, 0)] {
        let plan = Plan::new(1, 1, n, k, 1);
        let degree = plan.neighbours(0).len();
        for party in 0..n as u32 {
            let own = plan.neighbours(party);
            assert!(own.len() == degree && own.is_sorted() && !own.contains(&party));
            assert!(own.iter().all(|&other| plan.neighbours(other).contains(&party)));
        }
        assert!(degree < n && plan.threshold > degree / 2);
        assert_ne!(plan.session, Plan::new(1, 2, n, k, 1).session);
    }
}

/// A sum in which everybody has sent keys and shares, and party 0 its vector.
struct Halfway {
    plan: Arc<Plan>,
    clients: Vec<Client>,
    server: Server,
    masked: Vec<Vec<u8>>,
}

fn halfway() -> Halfway {
    let plan = Arc::new(Plan::new(3, 1, 6, 0, 4));
    let mut clients: Vec<Client> = (0..6).map(|i| Client::new(plan.clone(), i, entropy(i))).collect();
    let mut server = Server::new(plan.clone());
    for client in &mut clients {
        server.receive(&client.keys()).unwrap();
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let shares = client.shares(&server.directory(i as u32)).unwrap();
        server.receive(&shares).unwrap();
    }
    let masked = clients.iter_mut().enumerate().map(|(i, client)| client.masked(&server.delivery(i as u32), &input(i as u32, 4)).unwrap());
    let masked: Vec<Vec<u8>> = masked.collect();
    server.receive(&masked[0]).unwrap();
    Halfway { plan, clients, server, masked }
}

#[test]
fn what_a_party_uploads_says_nothing_by_itself() {
    let halfway = halfway();
    let body = |message: &[u8]| message[28..].to_vec();
    let own: Vec<u8> = input(0, 4).iter().flat_map(|x| x.to_le_bytes()).collect();
    let differing = body(&halfway.masked[0]).iter().zip(&own).filter(|(a, b)| a != b).count();
    assert!(differing > 24, "{differing} of 32 bytes");
}

#[test]
fn malformed_late_replayed_and_forged_messages_are_refused_and_change_nothing() {
    let Halfway { plan, mut clients, mut server, masked } = halfway();
    // Cut off, of a wrong length, nonsense.
    assert!(matches!(server.receive(&masked[1][..20]), Err(Refused::Malformed { .. })));
    assert!(matches!(server.receive(&masked[1][..masked[1].len() - 8]), Err(Refused::Malformed { from: 1, .. })));
    assert!(matches!(server.receive(&[0; 200]), Err(Refused::Malformed { .. })));
    // Twice, and of another sum.
    assert_eq!(server.receive(&masked[0]), Err(Refused::Twice(0)));
    let other = Arc::new(Plan::new(3, 2, 6, 0, 4));
    let mut stranger = Client::new(other, 1, entropy(1));
    assert_eq!(server.receive(&stranger.keys()), Err(Refused::OtherSum(1)));
    // Too late for keys.
    let late = Client::new(plan.clone(), 1, entropy(1)).keys();
    assert!(matches!(server.receive(&late), Err(Refused::OutOfTurn { from: 1, got: "keys", wanted: "masked" })));
    // A party that there is not.
    let mut stranger = masked[1].clone();
    stranger[24] = 77;
    assert_eq!(server.receive(&stranger), Err(Refused::Stranger(77)));
    for message in &masked[1..5] {
        server.receive(message).unwrap();
    }
    // Party 5 is late; what it has sent is refused from now on.
    let arrived: Vec<Vec<u8>> = (0..5).map(|party| server.arrived(party)).collect();
    assert!(matches!(server.receive(&masked[5]), Err(Refused::OutOfTurn { from: 5, .. })));
    // A message for someone else; a list that is cut; an answer twice, which would give the other share as well.
    assert_eq!(clients[0].unmask(&arrived[1]), Err(Refused::Stranger(1)));
    assert!(matches!(clients[0].unmask(&arrived[0][..arrived[0].len() - 2]), Err(Refused::Malformed { .. })));
    assert!(matches!(clients[0].unmask(&arrived[0][..32]), Err(Refused::TooFew { of: 0, left: 1, .. })));
    let answers: Vec<Vec<u8>> = (0..5).map(|i| clients[i].unmask(&arrived[i]).unwrap()).collect();
    assert!(matches!(clients[0].unmask(&arrived[0]), Err(Refused::OutOfTurn { .. })));
    assert!(matches!(server.receive(&answers[0][..answers[0].len() - 44]), Err(Refused::Malformed { from: 0, .. })));
    for answer in &answers {
        server.receive(answer).unwrap();
    }
    assert_eq!(server.receive(&answers[2]), Err(Refused::Twice(2)));
    assert_eq!(server.finish().unwrap(), plain(0..5, 4));
}

#[test]
fn shares_that_were_changed_are_found() {
    let plan = Arc::new(Plan::new(3, 1, 6, 0, 4));
    let mut clients: Vec<Client> = (0..6).map(|i| Client::new(plan.clone(), i, entropy(i))).collect();
    let mut server = Server::new(plan.clone());
    clients.iter_mut().for_each(|client| server.receive(&client.keys()).unwrap());
    // A directory with a neighbour's key turned into the receiver's own, or into one that gives everybody the same.
    let directory = server.directory(0);
    let mut own = directory.clone();
    own[32..64].copy_from_slice(&Client::new(plan.clone(), 0, entropy(0)).keys()[28..60]);
    assert_eq!(clients[0].shares(&own), Err(Refused::Forged(1)));
    let mut weak = directory.clone();
    weak[32..64].fill(0);
    assert_eq!(clients[0].shares(&weak), Err(Refused::Forged(1)));
    for (i, client) in clients.iter_mut().enumerate() {
        let shares = client.shares(&server.directory(i as u32)).unwrap();
        server.receive(&shares).unwrap();
    }
    // One bit of a sealed share on its way.
    let mut delivery = server.delivery(0);
    delivery[60] ^= 1;
    assert_eq!(clients[0].masked(&delivery, &[0; 4]), Err(Refused::Forged(1)));
    for i in 0..6u32 {
        let masked = clients[i as usize].masked(&server.delivery(i), &input(i, 4)).unwrap();
        server.receive(&masked).unwrap();
    }
    // A party that gives another share than it was given.
    for i in 0..6u32 {
        let mut answer = clients[i as usize].unmask(&server.arrived(i)).unwrap();
        if i == 1 {
            answer[40] ^= 1;
        }
        server.receive(&answer).unwrap();
    }
    assert_eq!(server.finish(), Err(Refused::Inconsistent(0)));
}

#[test]
fn too_many_dropouts_lose_the_sum_and_say_so() {
    let plan = Arc::new(Plan::new(3, 1, 6, 0, 4));
    let lost = simulate(&plan, &[0, 1, 2, 3], 1, entropy, |party| input(party, 4)).unwrap_err();
    assert!(matches!(lost, Refused::TooFew { left: 1, needed: 3, .. }), "{lost}");
    assert!(lost.to_string().contains("repeat it"));
}
