//! The examples' backbone and term, made known once: what another crate adds is held to what is true of LUMOS's own.

#[path = "../../examples/own_backbone.rs"]
#[allow(dead_code)]
mod own_backbone;
#[path = "../../examples/own_objective.rs"]
#[allow(dead_code)]
mod own_objective;

use lumos::config::{Backbone, Settings};
use std::sync::Once;

/// `settings` with the backbone and the term of the examples.
pub fn with_foreign(mut settings: Settings) -> Settings {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        lumos::model::register_backbone(own_backbone::MARKOV).unwrap();
        lumos::model::objectives::register(own_objective::TWO_AHEAD).unwrap();
    });
    settings.model.backbone = Backbone::find("markov").unwrap();
    settings.loss.terms = vec!["two-ahead every=2".into()];
    settings
}
