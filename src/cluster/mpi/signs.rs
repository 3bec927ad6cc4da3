//! Signs of life beside the exchanges: each process sends one a second to rank 0, and rank 0 one to each. Whoever falls silent, or works on
//! nothing while the others wait, ends the training with its name.

use super::super::still::{Sign, stands_still};
use super::Inner;
use super::calls::{self, Comms};
use crate::{Error, Result};
use mpi_sys as sys;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time between two signs of a process.
const EVERY: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// What this process says of itself.
#[derive(Default)]
pub(super) struct Own {
    entered: AtomicU64,
    waiting: AtomicBool,
    pub over: AtomicBool,
}

impl Own {
    /// An exchange begins.
    pub fn enter(&self) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        self.waiting.store(true, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn leave(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }

    fn sign(&self) -> Sign {
        [self.entered.load(Ordering::Relaxed), u64::from(self.waiting.load(Ordering::Relaxed)), super::super::progress::so_far()]
    }
}

/// How long a process may be silent, and how long it may stand still while others wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub silent: Duration,
    pub still: Duration,
}

/// What is known of another process.
struct Peer {
    rank: usize,
    incoming: Sign,
    outgoing: Sign,
    receive: sys::MPI_Request,
    send: sys::MPI_Request,
    last: Sign,
    heard: Instant,
    moved: Instant,
}

/// Looks and signs until the training is over; ends it where another process is lost.
pub(super) fn keep(inner: &Inner, limits: Limits) {
    let (library, own) = (&inner.library, &inner.own);
    let fail = |rank: usize, what: &str| inner.end_all(&format!("{} {what}", inner.names[rank]));
    let others = if library.rank == 0 { 1..library.size } else { 0..1 };
    // SAFETY: a constant of the library.
    let none = unsafe { sys::RSMPI_REQUEST_NULL };
    let now = Instant::now();
    let peer = |rank| Peer { rank, incoming: [0; 3], outgoing: [0; 3], receive: none, send: none, last: [0; 3], heard: now, moved: now };
    // Requests of MPI point into it, so that it never grows.
    let mut peers: Vec<Peer> = others.map(peer).collect();
    let lost = |e: Error, rank: usize| fail(rank, &format!("cannot be reached ({e})"));
    for peer in &mut peers {
        if let Err(e) = peer.listen(&library.lock()) {
            lost(e, peer.rank);
        }
    }
    let (mut sent, mut own_last, mut own_moved) = (None::<Instant>, own.sign(), Instant::now());
    while !own.over.load(Ordering::SeqCst) {
        std::thread::sleep(LOOK);
        let Some(comms) = library.try_lock(limits.silent.as_secs_f64()) else {
            return fail(library.rank, &format!("is stuck in a call of MPI for {} s", limits.silent.as_secs()));
        };
        let due = sent.is_none_or(|at| at.elapsed() >= EVERY);
        let sign = own.sign();
        for peer in &mut peers {
            if let Err(e) = peer.look(&comms, due.then_some(sign)) {
                lost(e, peer.rank);
            }
        }
        drop(comms);
        if due {
            sent = Some(Instant::now());
        }
        if sign != own_last {
            (own_last, own_moved) = (sign, Instant::now());
        }
        if let Some(silent) = peers.iter().find(|peer| peer.heard.elapsed() > limits.silent) {
            fail(silent.rank, &format!("has given no sign of life for {} s", limits.silent.as_secs()));
        }
        let all = peers.iter().map(|p| (p.rank, p.last, p.moved)).chain([(library.rank, sign, own_moved)]);
        if library.rank == 0
            && let Some(rank) = stands_still(all.collect::<Vec<_>>().as_slice(), limits.still)
        {
            fail(rank, &format!("has worked on nothing for {} s while others wait for it", limits.still.as_secs()));
        }
    }
    let comms = library.lock();
    for peer in &mut peers {
        peer.end(&comms);
    }
}

impl Peer {
    fn listen(&mut self, comms: &Comms) -> Result<()> {
        // SAFETY: `incoming` lives until the request is through or cancelled, for the list of peers never grows and ends after both.
        let code = unsafe {
            let into = self.incoming.as_mut_ptr().cast();
            sys::MPI_Irecv(into, 3, sys::RSMPI_UINT64_T, self.rank as c_int, 0, comms.signs, &mut self.receive)
        };
        calls::check("MPI_Irecv", code)
    }

    /// Takes what has come, and sends `sign` if the last one is through.
    fn look(&mut self, comms: &Comms, sign: Option<Sign>) -> Result<()> {
        while calls::test(comms, &mut self.receive)? {
            self.heard = Instant::now();
            if self.incoming != self.last {
                (self.last, self.moved) = (self.incoming, self.heard);
            }
            self.listen(comms)?;
        }
        let Some(sign) = sign else { return Ok(()) };
        // A request that is through, or was never made, is null: that counts as done.
        if calls::test(comms, &mut self.send)? {
            self.outgoing = sign;
            // SAFETY: `outgoing` is not touched until the request is through.
            let code = unsafe {
                let from = self.outgoing.as_ptr().cast();
                sys::MPI_Isend(from, 3, sys::RSMPI_UINT64_T, self.rank as c_int, 0, comms.signs, &mut self.send)
            };
            calls::check("MPI_Isend", code)?;
        }
        Ok(())
    }

    /// Gives up what is under way. The process is about to leave MPI, and so are the others.
    fn end(&mut self, comms: &Comms) {
        // SAFETY: the request is of MPI_Irecv and was not freed; a null one is left alone.
        unsafe {
            if self.receive != sys::RSMPI_REQUEST_NULL && sys::MPI_Cancel(&mut self.receive) == 0 {
                let begun = Instant::now();
                while !calls::test(comms, &mut self.receive).unwrap_or(true) && begun.elapsed() < EVERY {}
            }
            let begun = Instant::now();
            while !calls::test(comms, &mut self.send).unwrap_or(true) && begun.elapsed() < EVERY {}
        }
    }
}
