//! The next tokens: the likeliest found on the device, so that nothing but tokens comes back; all else by the host.

use super::super::answer;
use super::super::network::SampleRequest;
use super::{Candle, Linear, failed};
use crate::Result;
use candle_core::Tensor;
use parking_lot::Mutex;

/// Chosen tokens, those of the host at once and those of the device on their way.
pub struct Answers {
    /// In the order of the asks; `None` also where the device answers.
    host: Vec<Option<u32>>,
    /// Which asks the device answers, their tokens `[n]`, and the vocabulary's size, which stands for no token.
    device: Option<(Vec<usize>, Tensor, usize)>,
}

/// Numbers `0..n` on the device, kept from step to step.
#[derive(Default)]
pub(super) struct Count(Mutex<Option<Tensor>>);

impl Count {
    fn get(&self, n: usize, like: &Tensor) -> candle_core::Result<Tensor> {
        let mut kept = self.0.lock();
        if let Some(count) = kept.as_ref().filter(|count| count.elem_count() == n) {
            return Ok(count.clone());
        }
        let count = Tensor::arange(0, n as u32, like.device())?;
        *kept = Some(count.clone());
        Ok(count)
    }
}

/// Whether nothing but the largest logit counts.
fn is_plain(ask: &SampleRequest<'_>) -> bool {
    ask.sampling.is_greedy() && ask.sampling.repetition_penalty == 1.0 && ask.allowed.is_none()
}

/// Of every row of `logits [n, vocab]` (f32) the token with the largest; of equals the lowest, which candle's own `argmax` does not
/// promise on a GPU; `vocab` where no logit is a number. `count` is `0..vocab`.
fn likeliest(logits: &Tensor, count: &Tensor) -> candle_core::Result<Tensor> {
    let vocab = logits.dims2()?.1;
    let filled = |x: Tensor| x.broadcast_as(logits.shape());
    // Nothing equals NaN, not even itself.
    let numbers = logits.eq(logits)?;
    let top = numbers.where_cond(logits, &filled(Tensor::new(f32::NEG_INFINITY, logits.device())?)?)?.max_keepdim(1)?;
    let largest = logits.broadcast_eq(&top)?;
    largest.where_cond(&count.broadcast_as(logits.shape())?, &filled(Tensor::new(vocab as u32, logits.device())?)?)?.min(1)
}

impl Candle {
    pub(super) fn begin(&self, x: &Tensor, head: &Linear, cap: Option<f32>, asks: &[SampleRequest<'_>]) -> Result<Answers> {
        let (plain, other): (Vec<usize>, Vec<usize>) = (0..asks.len()).partition(|i| is_plain(&asks[*i]));
        let mut host = vec![None; asks.len()];
        let mut device = None;
        if !plain.is_empty() {
            let rows = plain.iter().map(|i| asks[*i].row as u32).collect();
            let x = self.ids(rows).and_then(|rows| x.index_select(&rows, 0)).map_err(failed)?;
            let logits = self.device_logits(&x, head, cap)?;
            let vocab = head.outputs();
            let tokens = self.count.get(vocab, &logits).and_then(|count| likeliest(&logits, &count)).map_err(failed)?;
            device = Some((plain, tokens, vocab));
        }
        if !other.is_empty() {
            let own: Vec<SampleRequest<'_>> = other.iter().map(|i| asks[*i]).collect();
            let chosen = answer::on_host(self, x, head, cap, &own)?;
            other.iter().zip(chosen).for_each(|(i, token)| host[*i] = token);
        }
        Ok(Answers { host, device })
    }

    pub(super) fn end(&self, answers: Answers) -> Result<Vec<Option<u32>>> {
        let Answers { mut host, device } = answers;
        if let Some((asks, tokens, vocab)) = device {
            let tokens: Vec<u32> = tokens.to_vec1().map_err(failed)?;
            asks.iter().zip(tokens).for_each(|(i, token)| host[*i] = Some(token).filter(|t| (*t as usize) < vocab));
        }
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::network::Ops;
    use super::super::super::sample::{Key, Sampling};
    use super::*;
    use candle_core::{DType, Device};

    fn of(rows: &[&[f32]]) -> Vec<u32> {
        let logits = Tensor::new(rows.iter().map(|r| r.to_vec()).collect::<Vec<_>>(), &Device::Cpu).unwrap();
        let count = Count::default();
        likeliest(&logits, &count.get(rows[0].len(), &logits).unwrap()).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_lowest_of_equals_and_never_what_is_no_number() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(of(&[&[1.0, 3.0, 3.0, 2.0], &[5.0, 5.0, 5.0, 5.0], &[-2.0, -1.0, -3.0, -1.0]]), [1, 0, 1]);
        assert_eq!(of(&[&[nan, 3.0, nan, 3.0], &[nan, nan, nan, nan], &[nan, nan, -inf, -inf], &[1.0, inf, nan, inf]]), [1, 4, 2, 1]);
    }

    /// Hidden states `[n, width]` and an output layer `[vocab, width]` of few different numbers, so that equal logits occur.
    fn case(ops: &Candle, n: usize, width: usize, vocab: usize) -> (Tensor, Linear) {
        let numbers = |count: usize, step: usize| (0..count).map(|i| ((i * step) % 7) as f32 - 3.0).collect::<Vec<_>>();
        let weight = Tensor::from_vec(numbers(vocab * width, 5), (vocab, width), &ops.device).unwrap();
        (Tensor::from_vec(numbers(n * width, 3), (n, width), &ops.device).unwrap(), Linear { weight, bias: None })
    }

    #[test]
    fn device_and_host_answer_as_the_host_alone() {
        let ops = Candle::new(Device::Cpu, DType::F32);
        let (x, head) = case(&ops, 5, 3, 90);
        let drawn = Sampling { temperature: 0.9, ..Sampling::GREEDY };
        let again = Sampling { repetition_penalty: 1.5, ..Sampling::GREEDY };
        let allowed: Vec<u32> = vec![4, 17, 80];
        let ask = |row: usize, sampling: Sampling| SampleRequest {
            row,
            sampling,
            key: Key::default(),
            position: row as u64,
            seen: &[],
            allowed: None,
            biases: &[],
        };
        let mut asks = vec![ask(3, Sampling::GREEDY), ask(0, drawn), ask(1, Sampling::GREEDY), ask(2, again), ask(4, Sampling::GREEDY)];
        asks.push(SampleRequest { allowed: Some(&allowed), ..ask(2, Sampling::GREEDY) });
        asks.push(SampleRequest { allowed: Some(&allowed), biases: &[0.0, 9.0, 0.0], ..ask(2, Sampling::GREEDY) });
        asks[3].seen = &[0, 1, 2, 3];
        for cap in [None, Some(2.0)] {
            for some in [&asks[..], &asks[..1], &asks[1..2]] {
                let expected = answer::on_host(&ops, &x, &head, cap, some).unwrap();
                let ours = ops.answers(ops.ask(x.clone(), &head, cap, some).unwrap()).unwrap();
                assert_eq!(ours, expected);
                assert!(ours.iter().all(Option::is_some));
            }
        }
    }

    #[test]
    fn no_token_where_no_logit_is_a_number() {
        let ops = Candle::new(Device::Cpu, DType::F32);
        let (x, head) = case(&ops, 2, 3, 40);
        let x = (x * f64::NAN).unwrap();
        let ask =
            SampleRequest { row: 1, sampling: Sampling::GREEDY, key: Key::default(), position: 0, seen: &[], allowed: None, biases: &[] };
        assert_eq!(ops.answers(ops.ask(x, &head, None, &[ask]).unwrap()).unwrap(), [None]);
    }
}
