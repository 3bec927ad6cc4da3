//! The objective: the text of the next item, and two contrasts within a mini-batch.

use super::constants::Constants;
use super::text::Lines;
use crate::Result;
use crate::llm::tune::{Tuned, failed};
use candle_core::{D, Tensor};

/// A history up to a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Example<'d> {
    /// The items before it, oldest first.
    pub history: &'d [u32],
    /// The target.
    pub target: u32,
}

/// The value of an objective and what it is made of.
pub struct Loss {
    /// What is differentiated.
    pub whole: Tensor,
    /// Mean loss of a target's token.
    pub next_item: f64,
    /// Weighted sum of the contrasts.
    pub contrast: f64,
    /// Tokens that the model read.
    pub tokens: u64,
}

/// Where the objective looks in the hidden states of one batch.
#[derive(Default)]
struct Places {
    /// Rows that predict a token, and the tokens.
    rows: Vec<u32>,
    tokens: Vec<u32>,
    /// First and last row (excluded) of the users, of the targets in their contexts and of the targets alone.
    users: Vec<[usize; 2]>,
    within: Vec<[usize; 2]>,
    alone: Vec<[usize; 2]>,
}

/// The first stage: every item of the histories and the target is predicted from what is before it.
///
/// # Errors
/// The device's.
pub fn all_items(model: &Tuned, lines: &Lines, examples: &[Example]) -> Result<Loss> {
    let (mut sequences, mut places, mut row) = (Vec::new(), Places::default(), 0);
    for example in examples {
        let target = lines.item(example.target);
        let (prompt, heading) = lines.prompt(example.history, target.len());
        let whole = [&prompt, target].concat();
        // The heading is ours, and says nothing of a user.
        places.rows.extend((row + heading - 1..row + whole.len() - 1).map(|at| at as u32));
        places.tokens.extend(&whole[heading..]);
        row += whole.len();
        sequences.push(whole);
    }
    let hidden = model.hidden(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let next_item = next_item(model, &hidden, &places)?;
    let value = f64::from(next_item.to_scalar::<f32>().map_err(failed)?);
    Ok(Loss { whole: next_item, next_item: value, contrast: 0.0, tokens: row as u64 })
}

/// The second stage, `(1 - alpha - beta) L_NIG + alpha L_TT + beta L_UT`: the tokens of the target after its history; the target in its context
/// against the targets of the mini-batch alone; the user against them. What stands for a text is the mean of its last hidden states.
///
/// # Errors
/// The device's.
pub fn with_contrast(model: &Tuned, lines: &Lines, examples: &[Example], constants: &Constants) -> Result<Loss> {
    let Constants { alpha, beta, tau, .. } = *constants;
    let (mut sequences, mut places, mut row) = (Vec::new(), Places::default(), 0);
    for example in examples {
        let target = lines.item(example.target);
        let (prompt, _) = lines.prompt(example.history, target.len());
        for (i, token) in target.iter().enumerate() {
            places.rows.push((row + prompt.len() + i - 1) as u32);
            places.tokens.push(*token);
        }
        places.users.push([row, row + prompt.len()]);
        places.within.push([row + prompt.len(), row + prompt.len() + target.len()]);
        row += prompt.len() + target.len();
        sequences.push([&prompt, target].concat());
    }
    for example in examples {
        let line = lines.line(example.target);
        places.alone.push([row + lines.mark(), row + line.len()]);
        row += line.len();
        sequences.push(line);
    }
    let hidden = model.hidden(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let next_item = next_item(model, &hidden, &places)?;
    let targets: Vec<u32> = examples.iter().map(|example| example.target).collect();
    let contrasts = || {
        let [users, within, alone] = [&places.users, &places.within, &places.alone].map(|ranges| means(&hidden, ranges));
        let alone = alone?;
        let (targets_within, users) = (in_batch(&within?, &alone, &targets, tau)?, in_batch(&users?, &alone, &targets, tau)?);
        (targets_within * alpha)? + (users * beta)?
    };
    let contrast = contrasts().map_err(failed)?;
    let values = [&next_item, &contrast].map(|x| x.to_scalar::<f32>().map(f64::from).map_err(failed));
    let [next, pull] = values;
    let whole = ((next_item * (1.0 - alpha - beta)).and_then(|x| x + contrast)).map_err(failed)?;
    Ok(Loss { whole, next_item: next?, contrast: pull?, tokens: row as u64 })
}

/// The mean over the tokens asked for of minus the log of their probability.
fn next_item(model: &Tuned, hidden: &Tensor, places: &Places) -> Result<Tensor> {
    let logits = model.logits(hidden, &places.rows)?;
    let tokens = Tensor::new(&places.tokens[..], hidden.device());
    tokens.and_then(|tokens| cross_entropy(&logits, &tokens)).map_err(failed)
}

/// The mean over rows of minus the log of the softmax of `logits` `[n, classes]` at `classes` `[n]`.
fn cross_entropy(logits: &Tensor, classes: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let sums = shifted.exp()?.sum(D::Minus1)?.log()?;
    let own = shifted.gather(&classes.unsqueeze(1)?, 1)?.squeeze(1)?;
    (sums - own)?.mean_all()
}

/// Means of ranges of rows `[n, width]`, each of length 1.
fn means(hidden: &Tensor, ranges: &[[usize; 2]]) -> candle_core::Result<Tensor> {
    let one = |[from, to]: &[usize; 2]| hidden.narrow(0, *from, to - from)?.mean_keepdim(0);
    let all = Tensor::cat(&ranges.iter().map(one).collect::<candle_core::Result<Vec<_>>>()?, 0)?;
    all.broadcast_div(&(all.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)
}

/// InfoNCE of `a` `[n, width]` against `b`, row against the same row, by cosine: the other rows are the negatives, but for those of the same target.
fn in_batch(a: &Tensor, b: &Tensor, targets: &[u32], tau: f64) -> candle_core::Result<Tensor> {
    let n = targets.len();
    let same = |at: usize| at / n != at % n && targets[at / n] == targets[at % n];
    let left_out: Vec<f32> = (0..n * n).map(|at| if same(at) { f32::NEG_INFINITY } else { 0.0 }).collect();
    let likeness = (a.matmul(&b.t()?)? * (1.0 / tau))? + Tensor::from_vec(left_out, (n, n), a.device())?;
    cross_entropy(&likeness?, &Tensor::arange(0u32, n as u32, a.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::options;
    use crate::config::{Settings, TextSettings};
    use crate::data::ItemText;
    use crate::federation::protocol::calrec;
    use crate::llm::tune::Adapt;
    use crate::llm::{Model, Options, Place};

    fn item(title: &str, category: &str) -> ItemText {
        ItemText { title: title.into(), categories: vec![category.into()], ..Default::default() }
    }

    fn constants(text: &str) -> Result<Constants> {
        let mut settings = Settings::default();
        (settings.loss.contrast, settings.federation.clients) = (crate::config::Contrast::None, crate::config::Clients::One);
        settings.local.optimizer = crate::config::LocalOptimizer::Adamw;
        let (_, options) = options::read("federation.protocol", "protocol", text, &[&calrec::KIND])?;
        Constants::read(&options, &settings)
    }

    fn parts() -> (Tuned, Lines) {
        let options = Options { place: Place::named("cpu").unwrap(), threads: 1, ..Options::default() };
        let model = Model::small(9, &options).unwrap();
        let catalogue = [item("Soap", "Bath"), item("Red Hose", ""), item("", ""), item("Lamp 3", "Home / Light")];
        let lines = Lines::new(&catalogue, &TextSettings::default(), &model.tokenizer, 512).unwrap();
        (Tuned::new(&model, Adapt::Full, candle_core::Device::Cpu).unwrap(), lines)
    }

    /// The hidden states of one text alone, and the logs of the probabilities of its tokens after the first.
    fn alone(model: &Tuned, tokens: &[u32]) -> (Vec<Vec<f64>>, Vec<f64>) {
        let hidden = model.hidden(&[tokens]).unwrap();
        let logits = model.logits(&hidden, &(0..tokens.len() as u32).collect::<Vec<_>>()).unwrap().to_vec2::<f32>().unwrap();
        let log = |at: usize| {
            let row: Vec<f64> = logits[at - 1].iter().map(|x| f64::from(*x)).collect();
            row[tokens[at] as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
        };
        let rows = hidden.to_vec2::<f32>().unwrap().into_iter().map(|row| row.into_iter().map(f64::from).collect());
        (rows.collect(), (1..tokens.len()).map(log).collect())
    }

    fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
        (0..rows[0].len()).map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64).collect()
    }

    fn cosine(a: &[f64], b: &[f64]) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn the_objective_is_that_of_its_definition() {
        let (model, lines) = parts();
        // Two users have the same target: they are no negatives of each other. Item 2 has no text.
        let histories: [&[u32]; 4] = [&[0, 2, 1], &[1], &[], &[3, 3, 0]];
        let targets = [3, 0, 3, 1];
        let examples: Vec<Example> = histories.iter().zip(targets).map(|(&history, target)| Example { history, target }).collect();
        let c = constants("calrec alpha=0.3 beta=0.2 tau=0.4").unwrap();
        let found = with_contrast(&model, &lines, &examples, &c).unwrap();

        let (mut logs, mut users, mut within, mut targets_alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for example in &examples {
            let (prompt, _) = lines.prompt(example.history, 0);
            let target = lines.item(example.target);
            let (rows, log) = alone(&model, &[&prompt, target].concat());
            logs.extend(&log[prompt.len() - 1..]);
            users.push(mean(&rows[..prompt.len()]));
            within.push(mean(&rows[prompt.len()..]));
            let (rows, _) = alone(&model, &lines.line(example.target));
            targets_alone.push(mean(&rows[lines.mark()..]));
        }
        let contrast = |a: &[Vec<f64>]| {
            let one = |i: usize| {
                let exp = |j: usize| (cosine(&a[i], &targets_alone[j]) / 0.4).exp();
                let against: f64 = (0..4).filter(|j| i == *j || targets[i] != targets[*j]).map(exp).sum();
                -(exp(i) / against).ln()
            };
            (0..4).map(one).sum::<f64>() / 4.0
        };
        let next_item = -logs.iter().sum::<f64>() / logs.len() as f64;
        let pulls = 0.3 * contrast(&within) + 0.2 * contrast(&users);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-4;
        assert!(
            near(found.next_item, next_item) && near(found.contrast, pulls),
            "{} {next_item}, {} {pulls}",
            found.next_item,
            found.contrast
        );
        let whole = f64::from(found.whole.to_scalar::<f32>().unwrap());
        assert!(near(whole, 0.5 * next_item + pulls), "{whole}");
    }

    #[test]
    fn the_first_stage_predicts_every_line_and_not_the_heading() {
        let (model, lines) = parts();
        let found = all_items(&model, &lines, &[Example { history: &[0, 1], target: 3 }]).unwrap();
        let (prompt, heading) = lines.prompt(&[0, 1], 0);
        let (_, logs) = alone(&model, &[&prompt, lines.item(3)].concat());
        let logs = &logs[heading - 1..];
        let expected = -logs.iter().sum::<f64>() / logs.len() as f64;
        assert!((found.next_item - expected).abs() < 1e-4, "{} {expected}", found.next_item);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for (text, word) in
            [("calrec alpha=0.6 beta=0.4", "below 1"), ("calrec tau=0", "tau"), ("calrec samples=0", "samples"), ("calrec ranks=3", "rank")]
        {
            let why = constants(text).unwrap_err().to_string();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn a_prompt_keeps_the_latest_items_that_fit() {
        let (_, lines) = parts();
        let whole = lines.prompt(&[0, 1, 3], 0).0;
        let tail = lines.prompt(&[1, 3], 0).0;
        assert!(whole.ends_with(&tail[lines.prompt(&[], 0).1..]));
        let room = 512 - tail.len();
        assert_eq!(lines.prompt(&[0, 1, 3], room).0, tail, "an older item that does not fit is left out");
    }
}
