//! Where each weight of a model lies in the dense slab.

use crate::config::{Backbone, ModelSettings};

/// One named tensor of the dense slab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Name, such as `block0.q.w`.
    pub name: String,
    /// Axes; a weight is `[in, out]`, row-major.
    pub shape: Vec<usize>,
    /// First element in the slab.
    pub offset: usize,
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

/// Shape of a model and the layout of its dense slab `[P]`. The item table `[I, d]` is kept apart.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The settings that the layout follows from.
    pub settings: ModelSettings,
    /// Tensors in slab order.
    pub params: Vec<ParamInfo>,
    /// Length `P` of the slab.
    pub dense_len: usize,
}

impl ModelSpec {
    /// Layout for `settings` (already validated: `heads` divides `dim`, nothing is zero).
    pub fn new(settings: &ModelSettings) -> ModelSpec {
        let d = settings.dim as usize;
        let f = if settings.ffn == 0 { d } else { settings.ffn as usize };
        let mut params = Vec::new();
        let mut offset = 0;
        let mut add = |name: String, shape: &[usize]| {
            params.push(ParamInfo { name, shape: shape.to_vec(), offset });
            offset += shape.iter().product::<usize>();
        };
        match settings.backbone {
            Backbone::Sasrec => {
                add("positions".into(), &[settings.max_len as usize, d]);
                for b in 0..settings.blocks {
                    add(format!("block{b}.norm1.g"), &[d]);
                    add(format!("block{b}.norm1.b"), &[d]);
                    for name in ["q", "k", "v", "o"] {
                        add(format!("block{b}.{name}.w"), &[d, d]);
                        add(format!("block{b}.{name}.b"), &[d]);
                    }
                    add(format!("block{b}.norm2.g"), &[d]);
                    add(format!("block{b}.norm2.b"), &[d]);
                    add(format!("block{b}.f1.w"), &[d, f]);
                    add(format!("block{b}.f1.b"), &[f]);
                    add(format!("block{b}.f2.w"), &[f, d]);
                    add(format!("block{b}.f2.b"), &[d]);
                }
                add("norm.g".into(), &[d]);
                add("norm.b".into(), &[d]);
            }
            Backbone::Gru4rec => {
                for b in 0..settings.blocks {
                    add(format!("layer{b}.x.w"), &[d, 3 * d]);
                    add(format!("layer{b}.x.b"), &[3 * d]);
                    add(format!("layer{b}.h.w"), &[d, 3 * d]);
                    add(format!("layer{b}.h.b"), &[3 * d]);
                }
                add("out.w".into(), &[d, d]);
                add("out.b".into(), &[d]);
            }
        }
        ModelSpec { settings: settings.clone(), params, dense_len: offset }
    }

    /// Width `d`.
    pub fn dim(&self) -> usize {
        self.settings.dim as usize
    }

    /// Offset of the tensor called `name`. Panics for a name that the layout does not hold.
    pub fn offset(&self, name: &str) -> usize {
        self.params.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no parameter called {name}")).offset
    }
}
