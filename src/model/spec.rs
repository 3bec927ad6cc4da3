//! Where each weight of a model lies in the dense slab.

use super::backbones;
use super::layout::{Layout, ParamInfo, Treatment};
use super::objectives::Terms;
use crate::config::{ModelSettings, Settings};

/// Shape of a model and the layout of its dense slab `[P]`. The item table `[I + S, d]` is a table of its own: `I` items of the
/// catalogue, then `S` special rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The settings that the layout follows from.
    pub settings: ModelSettings,
    /// Tensors in slab order.
    pub params: Vec<ParamInfo>,
    /// Length `P` of the slab.
    pub dense_len: usize,
    /// Names of the special rows behind the catalogue `[S]`.
    pub special: Vec<&'static str>,
    /// The special row at which hidden states are asked for, where the backbone reads its sequences both ways.
    pub asked: Option<usize>,
}

impl ModelSpec {
    /// Layout for `settings` (already validated: `heads` divides `dim`, nothing is zero), with the special rows of the backbone alone.
    pub fn new(settings: &ModelSettings) -> ModelSpec {
        ModelSpec::declared(settings, &|_, _| {})
    }

    /// Layout for a run with `settings`: the backbone's, with the special rows that the terms of the objective need as well.
    pub fn of(settings: &Settings) -> ModelSpec {
        ModelSpec::declared(&settings.model, &|layout, asked| {
            Terms::of(&settings.loss, asked).iter().for_each(|term| term.declare(layout));
        })
    }

    fn declared(settings: &ModelSettings, more: &dyn Fn(&mut Layout, bool)) -> ModelSpec {
        let mut layout = Layout::new(settings);
        backbones::build(settings, &mut layout);
        let asked = layout.asked().is_some();
        more(&mut layout, asked);
        let (params, dense_len, special, asked) = layout.finish();
        ModelSpec { settings: settings.clone(), params, dense_len, special, asked }
    }

    /// Rows of the item table over a catalogue of `items`.
    pub fn rows(&self, items: usize) -> usize {
        items + self.special.len()
    }

    /// Row of the special row called `name` over a catalogue of `items`, if it was declared.
    pub fn special_row(&self, name: &str, items: usize) -> Option<u32> {
        self.special.iter().position(|s| *s == name).map(|number| (items + number) as u32)
    }

    /// Row of the special row that is appended to a history over a catalogue of `items`, where the backbone wants one.
    pub fn asked_row(&self, items: usize) -> Option<u32> {
        self.asked.map(|number| (items + number) as u32)
    }

    /// Width `d`.
    pub fn dim(&self) -> usize {
        self.settings.dim as usize
    }

    /// The table of learned positions, where the backbone has one.
    pub fn positions(&self) -> Option<&ParamInfo> {
        self.params.iter().find(|p| p.treatment == Treatment::Table)
    }
}
