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
    special: Vec<&'static str>,
    asked: Option<usize>,
}

impl Layout {
    /// An empty layout for a model of `settings`.
    pub fn new(settings: &ModelSettings) -> Layout {
        let weights = match settings.init_weights {
            InitWeights::Normal => Init::Normal(settings.init_std),
            InitWeights::Xavier => Init::Xavier,
        };
        Layout { params: Vec::new(), offset: 0, weights, std: settings.init_std, special: Vec::new(), asked: None }
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

    /// A row of the item table beyond the catalogue, such as a mask or a padding token. It is trained and uploaded as item rows are,
    /// and never ranked, recommended or drawn as a negative. Gives its number among the special rows; a name that was declared before
    /// is the same row.
    pub fn special(&mut self, name: &'static str) -> usize {
        self.special.iter().position(|s| *s == name).unwrap_or_else(|| {
            self.special.push(name);
            self.special.len() - 1
        })
    }

    /// Declares that hidden states are asked for at the special row `name`: it is appended to a history whose next item is wanted,
    /// and stands for the items that training hides. Without this a hidden state is that of the item itself.
    pub fn ask_with(&mut self, name: &'static str) {
        self.asked = Some(self.special(name));
    }

    /// The special row that is asked with, if one was declared.
    pub(super) fn asked(&self) -> Option<usize> {
        self.asked
    }

    /// Tensors in slab order with the slab's length, special rows, and the one that is asked with.
    pub(super) fn finish(self) -> (Vec<ParamInfo>, usize, Vec<&'static str>, Option<usize>) {
        (self.params, self.offset, self.special, self.asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Settings};
    use crate::model::{ModelSpec, Weights};

    #[test]
    fn tensors_lie_in_the_order_of_their_declaration_and_start_as_declared() {
        let settings = ModelSettings { init_weights: InitWeights::Xavier, ..ModelSettings::default() };
        let mut layout = Layout::new(&settings);
        let places = [
            layout.positions("places", 5, 4),
            layout.norm("n", 4).g,
            layout.linear("l", 4, 6).w,
            layout.matrix("m", 6, 2, Init::Normal(0.5)),
            layout.vector("v", 3, Init::Normal(0.1)),
        ];
        assert_eq!(places, [0, 20, 28, 58, 70]);
        assert_eq!((layout.special("pad"), layout.special("mask"), layout.special("pad")), (0, 1, 0));
        layout.ask_with("mask");
        let (params, dense_len, special, asked) = layout.finish();
        assert_eq!((dense_len, special.as_slice(), asked), (73, ["pad", "mask"].as_slice(), Some(1)));
        let of = |t: Treatment| params.iter().filter(|p| p.treatment == t).map(|p| p.name.as_str()).collect::<Vec<_>>();
        assert_eq!(of(Treatment::Matrix), ["l.w", "m"]);
        assert_eq!(of(Treatment::Table), ["places"]);
        assert_eq!(of(Treatment::Plain), ["n.g", "n.b", "l.b", "v"]);
        let spec = ModelSpec { settings: settings.clone(), params, dense_len, special, asked };
        let weights = Weights::init(&spec, 9, 1);
        assert_eq!(weights.items.len(), 11 * settings.dim as usize);
        assert!(weights.dense[20..24].iter().all(|&x| x == 1.0) && weights.dense[24..28].iter().all(|&x| x == 0.0));
        let deviation = |from: usize, to: usize| {
            let all = &weights.dense[from..to];
            (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt()
        };
        assert!((0.3..0.6).contains(&deviation(28, 52)), "Xavier of 4 and 6: {}", deviation(28, 52));
        assert!((0.25..0.9).contains(&deviation(58, 70)) && (0.005..0.04).contains(&deviation(0, 20)));
    }

    /// Names, places and special rows of what has been released: a checkpoint depends on them.
    #[test]
    fn layouts_of_backbones_stay_as_they_are() {
        let of = |backbone: Backbone| {
            let mut settings = Settings::default();
            (settings.model.backbone, settings.model.dim, settings.model.blocks, settings.model.max_len) = (backbone, 4, 1, 3);
            let spec = ModelSpec::of(&settings);
            (spec.params.iter().map(|p| format!("{}@{}", p.name, p.offset)).collect::<Vec<_>>().join(" "), spec.dense_len, spec.special)
        };
        let sasrec = "positions@0 block0.norm1.g@12 block0.norm1.b@16 block0.q.w@20 block0.q.b@36 block0.k.w@40 block0.k.b@56 \
                      block0.v.w@60 block0.v.b@76 block0.o.w@80 block0.o.b@96 block0.norm2.g@100 block0.norm2.b@104 block0.f1.w@108 \
                      block0.f1.b@124 block0.f2.w@128 block0.f2.b@144 norm.g@148 norm.b@152";
        assert_eq!(of(Backbone::SASREC), (sasrec.to_string(), 156, vec![]));
        let gru = "layer0.x.w@0 layer0.x.b@48 layer0.h.w@60 layer0.h.b@108 out.w@120 out.b@136";
        assert_eq!(of(Backbone::GRU4REC), (gru.to_string(), 140, vec![]));
        let bert = "positions@0 norm.g@12 norm.b@16 block0.q.w@20 block0.q.b@36 block0.k.w@40 block0.k.b@56 block0.v.w@60 \
                    block0.v.b@76 block0.o.w@80 block0.o.b@96 block0.norm1.g@100 block0.norm1.b@104 block0.f1.w@108 block0.f1.b@172 \
                    block0.f2.w@188 block0.f2.b@252 block0.norm2.g@256 block0.norm2.b@260 out.w@264 out.b@280 out.norm.g@284 out.norm.b@288";
        assert_eq!(of(Backbone::BERT4REC), (bert.to_string(), 292, vec!["mask"]));
    }
}
