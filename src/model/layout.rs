//! How a backbone declares its weights: each tensor with its shape, its initial value and its treatment in training.

use crate::config::{InitWeights, ModelSettings};

/// Initial value of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// 0 everywhere.
    Zero,
    /// 1 everywhere.
    One,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Normal with standard deviation `sqrt(2 / (in + out))` (Glorot and Bengio, AISTATS 2010).
    Xavier,
}

/// How training treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// A weight `[in, out]` of one linear product, which may update it as soon as its gradient is complete.
    Matrix,
    /// Updated after the backward pass.
    Plain,
    /// Rows by position `[max_len, d]`, of which only those that a step reaches have a gradient and are updated.
    Table,
}

/// One named tensor of the dense slab.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Name in checkpoints, such as `block0.q.w`. Decides nothing.
    pub name: String,
    /// Axes; a weight is `[in, out]`, row-major.
    pub shape: Vec<usize>,
    /// First element in the slab.
    pub offset: usize,
    /// Initial value.
    pub init: Init,
    /// Treatment in training.
    pub treatment: Treatment,
}

impl ParamInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a tensor without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Weight and bias of a linear layer, as offsets in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Weight `[in, out]`.
    pub w: usize,
    /// Bias `[out]`.
    pub b: usize,
}

/// Gain and bias of a layer norm, as offsets in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// Gain `[d]`.
    pub g: usize,
    /// Bias `[d]`.
    pub b: usize,
}

/// The declarations of a backbone. Tensors lie in the slab in the order of their declaration, without gaps; a tensor's initial
/// values depend on its place in that order.
#[derive(Debug)]
pub struct Layout {
    params: Vec<ParamInfo>,
    offset: usize,
    /// Initial value of weights as the settings have it.
    weights: Init,
    std: f32,
}

impl Layout {
    /// An empty layout for a model of `settings`.
    pub fn new(settings: &ModelSettings) -> Layout {
        let weights = match settings.init_weights {
            InitWeights::Normal => Init::Normal(settings.init_std),
            InitWeights::Xavier => Init::Xavier,
        };
        Layout { params: Vec::new(), offset: 0, weights, std: settings.init_std }
    }

    /// The initial value of weights that `model.init_weights` asks for.
    pub fn weights(&self) -> Init {
        self.weights
    }

    fn add(&mut self, name: String, shape: &[usize], init: Init, treatment: Treatment) -> usize {
        let offset = self.offset;
        debug_assert!(self.params.iter().all(|p| p.name != name), "two tensors are called {name}");
        self.params.push(ParamInfo { name, shape: shape.to_vec(), offset, init, treatment });
        self.offset += shape.iter().product::<usize>();
        offset
    }

    /// A weight `[ins, outs]`, for one linear product a step. Gives its offset, as the following do.
    pub fn matrix(&mut self, name: impl Into<String>, ins: usize, outs: usize, init: Init) -> usize {
        self.add(name.into(), &[ins, outs], init, Treatment::Matrix)
    }

    /// A vector `[len]`, such as a bias.
    pub fn vector(&mut self, name: impl Into<String>, len: usize, init: Init) -> usize {
        self.add(name.into(), &[len], init, Treatment::Plain)
    }

    /// The table of learned positions `[rows, d]`, normal with `model.init_std`. A model has at most one: a step knows which
    /// positions it reaches, and nothing of other tables.
    pub fn positions(&mut self, name: impl Into<String>, rows: usize, d: usize) -> usize {
        debug_assert!(self.params.iter().all(|p| p.treatment != Treatment::Table), "a model has one table of positions");
        self.add(name.into(), &[rows, d], Init::Normal(self.std), Treatment::Table)
    }

    /// A linear layer: weight `name.w [ins, outs]` as the settings start it, bias `name.b [outs]` of 0.
    pub fn linear(&mut self, name: impl AsRef<str>, ins: usize, outs: usize) -> Linear {
        let name = name.as_ref();
        Linear { w: self.matrix(format!("{name}.w"), ins, outs, self.weights), b: self.vector(format!("{name}.b"), outs, Init::Zero) }
    }

    /// A layer norm: gain `name.g [d]` of 1, bias `name.b [d]` of 0.
    pub fn norm(&mut self, name: impl AsRef<str>, d: usize) -> Norm {
        let name = name.as_ref();
        Norm { g: self.vector(format!("{name}.g"), d, Init::One), b: self.vector(format!("{name}.b"), d, Init::Zero) }
    }

    /// The tensors in slab order, and the slab's length.
    pub(super) fn finish(self) -> (Vec<ParamInfo>, usize) {
        (self.params, self.offset)
    }
}
