//! What the methods of a report recommend: the lists as a whole, and those of a few users as titles.

use super::groups::Group;
use super::table::Table;
use crate::base::clean;
use crate::data::{Dataset, Split};
use crate::eval::{Lists, SelectMetric};
use crate::run::chart::escape;
use crate::run::recommend_all::{List, Wanted, recommend_all};
use crate::{Result, run::Observer, views};
use std::sync::Arc;

/// Users whose lists are looked at, evenly over the data set.
const USERS: usize = 1000;
/// Of these, users who are shown.
const SHOWN: usize = 3;
/// Items of a history and of a list that are shown.
const LATEST: usize = 8;
const BEST: usize = 5;
/// Columns of a title.
const TITLE: usize = 60;

/// The section; empty where no run has a checkpoint to ask.
pub(super) fn section(groups: &[Group], data: &Arc<Dataset>, observer: &dyn Observer) -> Result<String> {
    let k = SelectMetric::parse("eval.select", &groups[0].first().settings.eval.select)?.k as usize;
    let k = k.min(data.item_count());
    let step = data.users().div_ceil(USERS).max(1);
    let users: Vec<u32> = (0..data.users()).step_by(step).map(|user| user as u32).collect();
    let shown: Vec<usize> = (0..SHOWN.min(users.len())).map(|n| n * users.len() / SHOWN.min(users.len())).collect();
    let counts = data.train_counts();
    let wanted = Wanted { name: "best", users: &users, k, split: None };
    let mut table = Table::new(["method", "coverage", "Gini", "popularity", "novelty, bits"].map(String::from));
    let mut lists: Vec<(&str, Vec<List>)> = Vec::new();
    for group in groups {
        let run = group.first();
        let mut all = Lists::new(&counts);
        let (mut kept, mut at) = (Vec::new(), 0);
        let mut each = |_: u32, list: &[(u32, f32)]| {
            all.add(list.iter().map(|(item, _)| *item));
            if shown.contains(&at) {
                kept.push(list.to_vec());
            }
            at += 1;
            Ok(())
        };
        // A run that has saved no checkpoint yet has nothing to say here.
        if recommend_all(&run.folder, &run.settings, data, &wanted, observer, &mut each).is_err() {
            continue;
        }
        let f = all.figures();
        let cells = [format!("{:.4}", f.coverage), format!("{:.4}", f.gini), format!("{:.4}", f.popularity), format!("{:.2}", f.novelty)];
        table.row(std::iter::once(group.name.clone()).chain(cells).map(|cell| (cell, false)));
        lists.push((group.name.as_str(), kept));
    }
    if table.is_empty() {
        return Ok(String::new());
    }
    let caption = format!(
        "The first {k} items for {} users. Coverage: share of the catalogue that is shown. Gini: 0 where all items are shown alike. \
         Popularity: mean share of items that are less known. Novelty: mean of -log2 of an item's share of training.",
        users.len()
    );
    let mut html = format!("<h2>What is recommended</h2>\n{}<h2>Examples</h2>\n", table.html(&caption));
    let views = groups.iter().find_map(|g| views::load(g.first().info.views_dir.as_deref()?, data).ok());
    for (place, &at) in shown.iter().enumerate() {
        html += &example(data, users[at], views.as_ref(), lists.iter().map(|(name, all)| (*name, &all[place])));
    }
    Ok(html)
}

/// Title and categories of an item, or its name.
fn name(data: &Dataset, item: u32) -> String {
    let text = &data.catalogue[item as usize];
    match text.title.trim() {
        "" => format!("item {}", clean::id(&data.item_tokens[item as usize])),
        title => clean::line(title, TITLE),
    }
}

fn items(data: &Dataset, all: impl IntoIterator<Item = u32>, target: Option<u32>) -> String {
    let entry = |item: u32| match target == Some(item) {
        true => format!("<li class=\"hit\">{} (the target)</li>", escape(&name(data, item))),
        false => format!("<li>{}</li>", escape(&name(data, item))),
    };
    format!("<ol class=\"items\">{}</ol>\n", all.into_iter().map(entry).collect::<String>())
}

fn example<'a>(data: &Dataset, user: u32, views: Option<&views::Views>, lists: impl Iterator<Item = (&'a str, &'a List)>) -> String {
    let whole = data.sequence(user as usize);
    let latest = &whole[whole.len().saturating_sub(LATEST)..];
    let token = escape(&clean::id(&data.user_tokens[user as usize]));
    let mut html = format!("<details><summary>User {token}, {} items</summary><div class=\"users\">\n", whole.len());
    html += &format!("<div><h3>History, the latest {}</h3>{}</div>\n", latest.len(), items(data, latest.iter().copied(), None));
    if let Some(views) = views.and_then(|views| views.get(user as usize)) {
        let (_, target) = data.input_and_target(user as usize, Split::Test).unzip();
        let counterfactual = views.counterfactuals.first().map_or(&[][..], Vec::as_slice);
        for (what, view) in [("Future", &views.future[..]), ("Paraphrase", &views.paraphrase), ("Counterfactual", counterfactual)] {
            let last = &view[view.len().saturating_sub(LATEST)..];
            if !last.is_empty() {
                html += &format!("<div><h3>{what} (view)</h3>{}</div>\n", items(data, last.iter().copied(), target));
            }
        }
    }
    for (name, list) in lists {
        let best = list.iter().take(BEST).map(|(item, _)| *item);
        html += &format!("<div><h3>{} recommends</h3>{}</div>\n", escape(name), items(data, best, None));
    }
    html + "</div></details>\n"
}
