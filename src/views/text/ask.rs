//! What one user is asked about, and the view that follows from the answer.

use std::collections::HashSet;

use super::names::Names;
use super::template::{Message, Prompts, Values};
use crate::Result;
use crate::base::rng::Stream;
use crate::config::{Grounding, ViewSettings};
use crate::views::generator::{Counts, Failed, Made, PublicCatalogue, ViewKind, future_length, part_of, reorder, stream};

/// A question about one view of one user.
pub struct Question<'a> {
    /// User.
    pub user: u32,
    /// Which view.
    pub part: ViewKind,
    /// The conversation up to the answer.
    pub messages: Vec<Message>,
    /// Lines that the answer should have.
    pub count: usize,
    /// Lines that the answer must not have, sorted: those of which the user has every item.
    pub closed: Vec<u32>,
    history: &'a [u32],
    /// Items that are used of the answer.
    wanted: usize,
    /// Fewest with which the view is worth anything.
    needed: usize,
    /// Paraphrase: places whose items are to be replaced, in order.
    places: Vec<usize>,
    stream: Stream,
}

/// How long a question may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Latest items of the history that are shown.
    pub shown: usize,
    /// Most items that are asked for.
    pub named: usize,
}

/// What a view needs.
pub enum Plan<'a> {
    /// A question.
    Question(Box<Question<'a>>),
    /// Nothing: the view is known without one.
    Ready(Made),
    /// There is nothing to ask.
    Cannot(Failed),
}

/// Asks for views and reads answers, over one catalogue.
pub struct Writer<'a> {
    public: &'a PublicCatalogue<'a>,
    /// What items are called.
    pub names: Names,
    /// Prompt files.
    pub prompts: Prompts,
    settings: ViewSettings,
    grounding: Grounding,
}

impl<'a> Writer<'a> {
    /// Over `public`; refuses a catalogue that has no names at all.
    ///
    /// # Errors
    /// Where a prompt file is wrong or no item can be named.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings, grounding: Grounding) -> Result<Writer<'a>> {
        let names = Names::new(public.items, &settings.text);
        let prompts = Prompts::read(settings.text.prompts.as_deref())?;
        if names.lines().is_empty() {
            let message = format!(
                "`{}` needs names, but no item of the catalogue has a title{}; use views.generator=catalogue",
                settings.generator.name(),
                if settings.text.untitled == crate::config::Untitled::Omit {
                    " (views.text.untitled=category would take categories)"
                } else {
                    " or category"
                }
            );
            return Err(crate::Error::setting("views.generator", message));
        }
        Ok(Writer { public, names, prompts, settings: settings.clone(), grounding })
    }

    /// The limits that the settings ask for.
    pub fn limits(&self) -> Limits {
        Limits { shown: self.settings.text.history as usize, named: self.settings.text.most_items as usize }
    }

    /// What a reader of the manifest should know of the names.
    pub fn notes(&self) -> Vec<String> {
        let c = &self.names.counts;
        let all = c.titled + c.by_category + c.left_out;
        let mut notes = Vec::new();
        if c.by_category > 0 {
            notes.push(format!("{} of {all} items have no title and go by their categories", c.by_category));
        }
        if c.left_out > 0 {
            notes.push(format!("{} of {all} items have no name and are left out of prompts and answers", c.left_out));
        }
        notes
    }

    /// The question of `part` with nothing in the places of histories, for as many items as a future has at most.
    pub fn without_user(&self, part: ViewKind) -> Vec<Message> {
        let count = self.settings.future_max as usize;
        self.prompts.of(part).messages(&Values { history: &[], replace: &[], count })
    }

    /// The items that the answer for `part` may not name: for a future those that the mask hides, else the history, of which neither a
    /// substitute nor a counterfactual may be.
    fn masked<'h>(&self, part: ViewKind, history: &'h [u32]) -> &'h [u32] {
        if part == ViewKind::Future { self.settings.mask.masked(history) } else { history }
    }

    /// What `part` of `user` needs.
    ///
    /// # Errors
    /// Where the history is not of the catalogue.
    pub fn plan<'h>(&self, user: u32, history: &'h [u32], part: ViewKind, limits: Limits) -> Result<Plan<'h>> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(Plan::Ready(Made::default()));
        }
        let masked = self.masked(part, history);
        let known: HashSet<u32> = masked.iter().copied().collect();
        let mut closed: Vec<u32> = masked.iter().filter_map(|i| self.names.line_of(*i)).collect();
        closed.sort_unstable();
        closed.dedup();
        closed.retain(|line| self.names.items_of(*line).iter().all(|i| known.contains(i)));
        let open = self.names.lines().len() - closed.len();
        let mut shown: Vec<String> = history.iter().rev().filter_map(|i| self.names.entry(*i)).take(limits.shown).collect();
        shown.reverse();
        let cannot = |reason: String| Ok(Plan::Cannot(Failed { reason, asked: false, counts: Counts::default() }));
        if shown.is_empty() {
            return cannot(format!("none of the {} items of the history has a name", history.len()));
        }
        if open == 0 {
            return cannot("every item of the catalogue that has a name is in the history".into());
        }
        let mut stream = stream(self.settings.seed, user, part);
        let most = limits.named.min(open);
        let mut places = Vec::new();
        let (wanted, needed, count) = match part {
            ViewKind::Future => {
                let wanted = future_length(&self.settings, &mut stream).min(most);
                let spare = if self.grounding == Grounding::Retrieval { self.settings.future_max as usize } else { wanted };
                (wanted, wanted.min(self.settings.future_min as usize), spare.min(most))
            }
            ViewKind::Paraphrase => {
                let share = part_of(self.settings.substitute, history.len(), &mut stream);
                let mut order: Vec<usize> = (0..history.len()).collect();
                stream.shuffle(&mut order);
                places = order.into_iter().filter(|p| self.names.line_of(history[*p]).is_some()).take(share.min(most)).collect();
                places.sort_unstable();
                (places.len(), places.len().div_ceil(2), places.len())
            }
            ViewKind::Counterfactual(_) => {
                let wanted = history.len().min(most);
                (wanted, wanted.div_ceil(2), wanted)
            }
        };
        let replace: Vec<String> =
            places.iter().filter_map(|p| Some(self.names.lines()[self.names.line_of(history[*p])? as usize].clone())).collect();
        let messages = self.prompts.of(part).messages(&Values { history: &shown, replace: &replace, count });
        let ask = Question { user, part, messages, count, closed, history, wanted, needed, places, stream };
        if wanted == 0 {
            // Only a paraphrase can want nothing: the order alone changes.
            return Ok(match self.finish(ask, &[], Counts::default()) {
                Ok(made) => Plan::Ready(made),
                Err(failed) => Plan::Cannot(failed),
            });
        }
        Ok(Plan::Question(Box::new(ask)))
    }

    /// The view that follows from `lines`: for each line of the answer the line of the catalogue that it is, if any. `tokens` has
    /// the tokens; the other counts are made here.
    ///
    /// # Errors
    /// The reason, where the answer names too few items.
    pub fn finish(&self, mut ask: Question<'_>, lines: &[Option<u32>], tokens: Counts) -> Result<Made, Failed> {
        let mut counts = tokens;
        counts.lines = lines.len() as u32;
        for line in lines.iter().flatten() {
            counts.grounded += 1;
            counts.own += u32::from(ask.closed.binary_search(line).is_ok());
        }
        let mut used: HashSet<u32> = self.masked(ask.part, ask.history).iter().copied().collect();
        // One hash a view, so that the views of a user do not take the same item of a shared line.
        let salt = crate::views::mix(ask.user, ask.part.index() as u32);
        let mut take = |line: &Option<u32>| {
            let item = self.names.item((*line)?, salt, |i| !used.contains(&i))?;
            used.insert(item);
            Some(item)
        };
        let (mut sequence, found) = match ask.part {
            ViewKind::Paraphrase => {
                let mut view = ask.history.to_vec();
                let mut found = 0;
                // Line by line where there is one for each place; else whatever was found, in order.
                let aligned = lines.len() == ask.places.len();
                let kept: Vec<Option<u32>> = if aligned { lines.to_vec() } else { lines.iter().copied().filter(Option::is_some).collect() };
                for (place, line) in ask.places.iter().zip(&kept) {
                    if let Some(item) = take(line) {
                        view[*place] = item;
                        found += 1;
                    }
                }
                (view, found)
            }
            ViewKind::Future | ViewKind::Counterfactual(_) => {
                let named: Vec<u32> = lines.iter().filter_map(&mut take).take(ask.wanted).collect();
                let found = named.len();
                (if ask.part == ViewKind::Future { [ask.history, &named].concat() } else { named }, found)
            }
        };
        if found < ask.needed {
            let reason = format!(
                "{}: {found} of the {} lines name a new item of the catalogue, {} are needed",
                ask.part.name(),
                lines.len(),
                ask.needed
            );
            return Err(Failed { reason, asked: true, counts });
        }
        if ask.part == ViewKind::Paraphrase {
            reorder(self.settings.reorder, &mut sequence, &mut ask.stream);
        }
        Ok(Made { sequence, counts })
    }
}
