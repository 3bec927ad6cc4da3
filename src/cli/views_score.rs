//! `lumos views score`: whether views are any good.

use super::args::{MOST_THREADS, between};
use super::interrupt;
use super::output::{say, say_json};
use super::table::table;
use super::views::data_dir;
use super::views_list::folder_named;
use crate::base::parallel;
use crate::{Result, data, views};
use std::path::PathBuf;

/// Measure whether views are any good: against what really came next, against chance, popularity and transitions
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos views score data/ml-100k-views/FOLDER
  lumos views score data/ml-100k-views/FOLDER --json       one object with next_item_hit, category_hit, neighbour_hit
The item that came next is the validation item: it is looked at here alone, and never by a generator or in training. Popularity,
transitions and random items name as many items as the future does.")]
pub struct Args {
    /// Folder of views, or their name in `lumos views list`
    dir: PathBuf,
    /// Folder of the data set [default: DATA where the views lie in DATA-views]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<usize>(0, MOST_THREADS))]
    threads: usize,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    let folder = folder_named(&args.dir)?;
    let dir = match &args.data {
        Some(dir) => dir.clone(),
        None => data_dir(&folder)?,
    };
    let data = data::load(&dir)?;
    let (found, manifest) = (views::load(&folder, &data)?, views::load_manifest(&folder)?);
    let model = manifest.generation.as_ref().map(|g| g.provenance.model.as_str());
    let score = views::score(&data, &found, &manifest.generator, model, parallel::threads(args.threads))?;
    if args.json {
        return say_json(&score);
    }
    say(format!("{} on {}: {} users, {:.2} items appended\n", score.generator, score.data, score.users, score.appended))?;
    let row = |name: &str, h: &views::Hits| {
        let place = |n: usize| h.hit_by_place.get(n).map_or("-".to_string(), |x| format!("{x:.4}"));
        let shares = [h.next_item_hit, h.category_hit, h.neighbour_hit].map(|x| format!("{x:.4}"));
        [name.to_string()].into_iter().chain(shares).chain([place(0), place(1), place(2)]).collect::<Vec<_>>()
    };
    let rows = [
        row("the future", &score.future),
        row("transitions", &score.transitions),
        row("popularity", &score.popularity),
        row("random", &score.random),
    ];
    say(table(&["names the next item", "itself", "its category", "near it", "at place 1", "2", "3"], &rows))?;
    let likeness = [
        ("random items", score.likeness_random),
        ("future", score.likeness_future),
        ("paraphrase", score.likeness_paraphrase),
        ("counterfactual", score.likeness_counterfactual),
    ];
    let rows: Vec<Vec<String>> = likeness.iter().map(|(name, x)| vec![name.to_string(), format!("{x:.4}")]).collect();
    say(format!("\n{}", table(&["likeness to the history", "mean cosine"], &rows)))?;
    say(format!("\nfutures name {:.1} % of the catalogue", 100.0 * score.catalogue_share))
}
