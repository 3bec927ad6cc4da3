//! `lumos import`: weights of another program as a run folder.

use super::args::{Overrides, between};
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use crate::config::Effective;
use crate::run::import::{Asked, Blocks, Foreign, ItemOrder};
use crate::run::{self, Claim, Prepared, Start};
use crate::settings;
use crate::{Error, Result, data};
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Make a run folder of the weights of another program
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos import SASRec.pth --data data/ml-1m --numbered --out runs/theirs       items are called by their rows, 1 to I
  lumos import weights.safetensors --data data/beauty --items items.txt --heads 2 --out runs/theirs
  lumos import SASRec.pth --data configs/ml-100k.toml --out runs/theirs        item i is the i-th item of the data set
  lumos import GRU4Rec.pth --data data/ml-1m --items items.txt --out runs/gru  RecBole's, whose rows are in its own order
  lumos eval runs/theirs                                                       then recommend, export, report, compare as for any run
FILE is a state_dict of pmixer/SASRec.pytorch or of RecBole's GRU4Rec with hidden_size equal to embedding_size: torch.save(model.state_dict(), FILE)
of PyTorch 1.6 or later, or safetensors. Nothing in a pickle is run. The file does not say how many heads the model has, nor which item a row is: a wrong --heads or a wrong order of items gives no error, but bad
ranks. Histories shorter than the longest one have other scores than SASRec.pytorch's: it lets them attend to its padding, LUMOS has none.
The run stands before its first round, and the command that is printed trains it further. RecBole's SASRec is refused, with the reason.")]
pub struct Args {
    /// File of weights (.pth, .pt, .safetensors; known by its content)
    file: PathBuf,
    /// Prepared data set, or a configuration file that describes one
    #[arg(long, value_name = "DIR_OR_CONFIG")]
    data: PathBuf,
    /// Run folder, which must not hold a run yet
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Attention heads of the model; must divide its width
    #[arg(long, value_name = "N", default_value = "1", value_parser = between::<u32>(1, 4096))]
    heads: u32,
    #[command(flatten)]
    order: Order,
    /// Longest history of the model (--maxlen of SASRec.pytorch, where a row of padding among its positions is not all 0; MAX_ITEM_LIST_LENGTH of RecBole, 50)
    #[arg(long, value_name = "N", value_parser = between::<u32>(1, 65_536))]
    max_len: Option<u32>,
    /// What the blocks compute, where the file may be of several versions; LUMOS has query-norm alone
    #[arg(long, value_enum, value_name = "KIND")]
    blocks: Option<BlocksArg>,
    #[command(flatten)]
    over: Overrides,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Which item a row is.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Order {
    /// Names of the items, one a line, that of row 1 first; rows of other items are left out
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// The name of an item in the data set is the number of its row, from 1
    #[arg(long)]
    numbered: bool,
}

/// What blocks compute.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BlocksArg {
    /// attention(Q, seqs, seqs) with Q the norm: older versions
    QueryNorm,
    /// Versions with --norm_first
    NormFirst,
    /// Versions that have --norm_first, without it
    PostNorm,
}

impl Args {
    fn asked(&self) -> Asked {
        let blocks = self.blocks.map(|kind| match kind {
            BlocksArg::QueryNorm => Blocks::QueryNorm,
            BlocksArg::NormFirst => Blocks::NormFirst,
            BlocksArg::PostNorm => Blocks::PostNorm,
        });
        Asked { heads: self.heads, max_len: self.max_len, blocks }
    }

    fn order(&self) -> ItemOrder {
        match &self.order.items {
            Some(file) => ItemOrder::Listed(file.clone()),
            None if self.order.numbered => ItemOrder::Numbered,
            None => ItemOrder::DataSet,
        }
    }

    /// Every `KEY=VALUE` of the run, those of the model last.
    fn sets(&self, model: &Foreign) -> Result<Vec<String>> {
        let (theirs, own) = (model.sets(), self.over.sets()?);
        let key = |set: &str| set.split('=').next().unwrap_or_default().trim().to_string();
        if let Some(set) = own.iter().find(|own| theirs.iter().any(|set| key(set) == key(own) && set != *own)) {
            return Err(Error::setting(key(set), format!("is what {} says; leave it out", self.file.display())));
        }
        Ok([vec![format!("method={}", model.method())], own, theirs].concat())
    }

    fn effective(&self, model: &Foreign) -> Result<Effective> {
        let sets = self.sets(model)?;
        if self.data.is_dir() {
            settings::load(None, &sets)?.on_prepared(&self.data, &data::load_manifest(&self.data)?.settings)
        } else {
            settings::load(Some(&self.data), &sets)
        }
    }
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    let model = Foreign::open(&args.file, &args.asked())?;
    let effective = args.effective(&model)?;
    let claim = Claim::take(&args.out, Start::New)?;
    let progress = Progress::new(args.json);
    let (data, data_dir) = if args.data.is_dir() {
        run::open_data(&args.data, &effective.settings, &progress)?
    } else {
        run::prepare_data(&effective.settings, false, &progress)?
    };
    // Ranking needs no views; training makes those that it needs.
    let prepared =
        Prepared { data: Arc::new(data), views: Arc::default(), data_dir, views_dir: None, views_manifest: None, views_reused: false };
    let done = model.import(&effective, &prepared, &args.order(), &claim)?;
    drop(progress);
    let mut words = vec!["lumos".to_string(), "train".to_string()];
    words.extend(args.data.is_dir().then(|| "--data".to_string()));
    words.push(args.data.display().to_string());
    words.extend(args.sets(&model)?.into_iter().flat_map(|set| ["--set".to_string(), set]));
    words.extend(["--out".to_string(), args.out.display().to_string(), "--resume".to_string()]);
    let further = shlex::try_join(words.iter().map(String::as_str)).map_err(|_| Error::Usage("a path holds a zero byte".into()))?;
    if args.json {
        return say_json(&json!({
            "run": args.out, "items": done.items, "left_out": done.left_out, "users": done.users, "short": done.short, "train": further,
        }));
    }
    let left_out = if done.left_out > 0 { format!("; {} rows of other items left out", done.left_out) } else { String::new() };
    say(format!("{}: weights for {} items{left_out}", args.out.display(), done.items))?;
    if done.short > 0 {
        say(format!(
            "{} of {} histories are shorter than the longest input: their scores differ from the port's, which attends to its padding",
            done.short, done.users
        ))?;
    }
    say(format!("to train it further: {further}"))
}
