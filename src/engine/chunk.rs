//! Visits of many clients packed for one launch: the item rows of all of them in one table, and one [`Step`] of all clients
//! for each local step.

use super::pack::{Packer, VisitPlan};
use crate::backend::Step;

/// Clients that are trained by the same launches. A client's part depends on the client alone, so that cutting a cohort
/// into chunks in any way changes no number.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// The clients `[C]`.
    pub clients: Vec<u32>,
    /// Their visits `[C]`.
    pub plans: Vec<VisitPlan>,
    /// Bounds of clients in the row table `[C + 1]`.
    pub client_rows: Vec<u32>,
    /// Item of each row `[R]`.
    pub items: Vec<u32>,
    /// Whether a row is uploaded `[R]`.
    pub uploads: Vec<bool>,
    /// Local steps, as many as the longest visit has. A client whose visit is over has no tokens in the steps after it.
    pub steps: Vec<Step>,
    /// Whether all steps differ in their candidates only: true of clients with one sequence, unless a term draws its inputs anew.
    pub same_layout: bool,
    one: Step,
}

impl Chunk {
    /// An empty chunk.
    pub fn new() -> Chunk {
        Chunk { client_rows: vec![0], same_layout: true, ..Chunk::default() }
    }

    /// Sequences to be encoded and not trained on, as those of one client whose item rows are the whole table of `rows`.
    pub fn forward(mut step: Step, rows: u32) -> Chunk {
        step.end_client();
        Chunk { clients: vec![0], client_rows: vec![0, rows], steps: vec![step], same_layout: true, ..Chunk::default() }
    }

    /// Sequences to be encoded and not trained on, each that of a client with dense weights of its own. All read one table of item rows, so that
    /// none has rows itself.
    pub fn forward_each(step: Step) -> Chunk {
        let clients: Vec<u32> = (0..step.clients() as u32).collect();
        Chunk { client_rows: vec![0; clients.len() + 1], clients, steps: vec![step], same_layout: true, ..Chunk::default() }
    }

    /// A micro-batch of a mini-batch of the participant `client`: one step whose item rows are those of `items`, none of them uploaded from here.
    pub fn micro_batch(step: Step, client: u32, items: Vec<u32>) -> Chunk {
        let plan = VisitPlan { steps: 1, rows: items.len() as u32, examples: step.training_positions() as u32 };
        Chunk {
            clients: vec![client],
            plans: vec![plan],
            client_rows: vec![0, items.len() as u32],
            uploads: vec![false; items.len()],
            items,
            steps: vec![step],
            same_layout: false,
            ..Chunk::default()
        }
    }

    /// Empties the chunk; capacity stays.
    pub fn clear(&mut self) {
        self.clients.clear();
        self.plans.clear();
        self.client_rows.clear();
        self.client_rows.push(0);
        self.items.clear();
        self.uploads.clear();
        self.steps.clear();
        self.same_layout = true;
    }

    /// The clients and their rows alone, once the steps are laid out elsewhere.
    pub fn without_steps(mut self) -> Chunk {
        (self.steps, self.one) = (Vec::new(), Step::default());
        self
    }

    /// Rows of the item table `R`.
    pub fn rows(&self) -> usize {
        self.items.len()
    }

    /// Steps up to `count`, those that are new with the clients so far and no tokens.
    fn reach(&mut self, count: usize) {
        while self.steps.len() < count {
            let mut step = Step::default();
            step.clear();
            for _ in 0..self.clients.len() {
                step.end_client();
            }
            self.steps.push(step);
        }
    }

    /// Packs the visit of `client`, which holds the sequences of `users`.
    pub fn push(&mut self, packer: &mut Packer, client: u32, users: &[u32], round: u64) {
        let plan = packer.begin(users, round);
        self.reach(plan.steps as usize);
        let first = self.items.len() as u32;
        for number in 0..self.steps.len() as u32 {
            if number < plan.steps {
                if number == 0 || !packer.repeats() {
                    packer.pack(number, &mut self.one);
                }
                self.steps[number as usize].append(&self.one, first);
            } else {
                self.steps[number as usize].end_client();
            }
        }
        self.same_layout &= users.len() == 1 && packer.steady();
        // After packing, because candidates are marked as trained while they are packed.
        self.items.extend_from_slice(packer.items());
        self.uploads.extend((0..plan.rows as usize).map(|row| packer.uploads(row)));
        self.clients.push(client);
        self.client_rows.push(self.items.len() as u32);
        self.plans.push(plan);
    }

    /// Appends the clients of `other`.
    pub fn append(&mut self, other: &Chunk) {
        self.reach(other.steps.len());
        let first = self.items.len() as u32;
        for (number, step) in self.steps.iter_mut().enumerate() {
            match other.steps.get(number) {
                Some(more) => step.append(more, first),
                None => (0..other.clients.len()).for_each(|_| step.end_client()),
            }
        }
        self.same_layout &= other.same_layout;
        self.items.extend_from_slice(&other.items);
        self.uploads.extend_from_slice(&other.uploads);
        self.clients.extend_from_slice(&other.clients);
        self.plans.extend_from_slice(&other.plans);
        self.client_rows.extend(other.client_rows[1..].iter().map(|r| r + first));
    }
}
