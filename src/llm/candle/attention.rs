//! Attention: rotation, keys and values into the cache, and the products, by one call of variable-length attention or composed of
//! candle's operations.

use super::super::network::{Attention, Batch, Norm};
use super::plan::{Group, Plan};
use super::varlen::{self, Call};
use super::{Cache, Candle, Table};
use candle_core::{D, DType, Result, Tensor};

/// Rotates the first dimensions of every head of `x [T, heads, head_dim]`.
fn rotate(x: &Tensor, table: &Table, plan: &Plan) -> Result<Tensor> {
    let half = table.rotated / 2;
    let (cos, sin) = plan.turns(&table.cos, &table.sin)?;
    let wide = x.to_dtype(DType::F32)?;
    let (a, b) = (wide.narrow(D::Minus1, 0, half)?, wide.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rest = x.dim(D::Minus1)? - table.rotated;
    let turned = if rest == 0 {
        Tensor::cat(&[first, second], D::Minus1)?
    } else {
        Tensor::cat(&[first, second, wide.narrow(D::Minus1, table.rotated, rest)?], D::Minus1)?
    };
    turned.to_dtype(x.dtype())
}

impl Candle {
    pub(super) fn rms(&self, x: &Tensor, norm: &Norm<Tensor>) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = wide.broadcast_div(&(mean + f64::from(norm.eps))?.sqrt()?)?;
        scaled.broadcast_mul(&norm.weight)?.to_dtype(x.dtype())
    }

    /// `qkv [T, (heads + 2 kv_heads) head_dim]` gives `[T, heads head_dim]`.
    pub(super) fn attention(
        &self,
        qkv: &Tensor,
        a: &Attention<'_, Candle>,
        batch: &Batch,
        plan: &Plan,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let s = a.spec;
        let (rows, width) = (batch.tokens.len(), s.kv_heads * s.head_dim);
        let heads = |from: usize, n: usize| qkv.narrow(1, from * s.head_dim, n * s.head_dim)?.contiguous()?.reshape((rows, n, s.head_dim));
        let plain = match (a.query_norm, a.key_norm) {
            (Some(query), Some(key)) => {
                Tensor::cat(&[self.rms(&heads(0, s.heads)?, query)?, self.rms(&heads(s.heads, s.kv_heads)?, key)?], 1)?
            }
            _ => heads(0, s.heads + s.kv_heads)?,
        };
        let turned = rotate(&plain, a.rope, plan)?;
        let (q, k) = (turned.narrow(1, 0, s.heads)?, turned.narrow(1, s.heads, s.kv_heads)?.contiguous()?);
        let v = heads(s.heads + s.kv_heads, s.kv_heads)?;
        self.store.rows(&cache.keys[a.layer], &k.reshape((rows, width))?, plan)?;
        self.store.rows(&cache.values[a.layer], &v.reshape((rows, width))?, plan)?;

        let Some(varlen) = self.varlen.filter(|_| varlen::takes(s)) else {
            return self.composed(&q, a, batch, plan, cache);
        };
        let packed = plan.packed(batch, a.window)?;
        let (k, v) = match &packed.places {
            None => (k, v),
            Some(places) => {
                let read = |x: &Tensor| x.index_select(places, 0)?.reshape((places.elem_count(), s.kv_heads, s.head_dim));
                (read(&cache.keys[a.layer])?, read(&cache.values[a.layer])?)
            }
        };
        varlen(&Call { q: &q, k: &k, v: &v, packed: &packed, spec: s, window: a.window })?.reshape((rows, s.heads * s.head_dim))
    }

    /// Attention of `q [T, heads, head_dim]` to what is in the cache: `[T, heads head_dim]`.
    fn composed(&self, q: &Tensor, a: &Attention<'_, Candle>, batch: &Batch, plan: &Plan, cache: &Cache) -> Result<Tensor> {
        let groups = plan.groups(batch)?;
        let masks = plan.masks(&groups, a.window)?;
        let one = |(group, mask): (&Group, &Tensor)| {
            let q = match &group.scattered {
                None => q.narrow(0, group.rows.start, group.rows.len())?,
                Some(rows) => q.contiguous()?.index_select(rows, 0)?,
            };
            self.scores(&q, group, mask, a, cache)
        };
        let all = groups.all.iter().zip(masks.iter()).map(one).collect::<Result<Vec<_>>>()?;
        let all = if let [only] = &all[..] { only.clone() } else { Tensor::cat(&all, 0)? };
        match &groups.back {
            None => Ok(all),
            Some(back) => all.index_select(back, 0),
        }
    }

    /// Attention of a group's queries `[n * rows, heads, head_dim]`; `mask [n, 1, rows, keys]`.
    fn scores(&self, q: &Tensor, group: &Group, mask: &Tensor, a: &Attention<'_, Candle>, cache: &Cache) -> Result<Tensor> {
        let s = a.spec;
        let (n, keys, share) = (group.len(), group.keys, s.group());
        let rows = group.rows.len() / n;
        let read = |x: &Tensor| x.index_select(&group.places, 0)?.reshape((n, keys, s.kv_heads, s.head_dim))?.transpose(1, 2)?.contiguous();
        let (k, v) = (read(&cache.keys[a.layer])?, read(&cache.values[a.layer])?);
        // Query heads that share a key head become rows of one product.
        let q = q.reshape((n, rows, s.kv_heads, share, s.head_dim))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let q = q.reshape((n, s.kv_heads, share * rows, s.head_dim))?;
        let mut scores = (q.matmul(&k.transpose(2, 3)?)?.to_dtype(DType::F32)? * f64::from(s.query_scale))?;
        if let Some(cap) = s.attention_cap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let scores = scores.reshape((n, s.kv_heads, share, rows, keys))?.broadcast_add(&mask.unsqueeze(1)?)?;
        let top = scores.max_keepdim(D::Minus1)?;
        let weights = scores.broadcast_sub(&top)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(v.dtype())?;
        let out = weights.reshape((n, s.kv_heads, share * rows, keys))?.matmul(&v)?;
        let out = out.reshape((n, s.kv_heads, share, rows, s.head_dim))?.permute((0, 3, 1, 2, 4))?.contiguous()?;
        out.reshape((n * rows, s.heads * s.head_dim))
    }
}
