//! GGUF files: quantised weights as candle reads them, under the names that model folders use.
//!
//! The file lies in a folder with the `config.json` and `tokenizer.json` of the model it was made from: those say exactly what the
//! metadata of GGUF says in part.

use super::gguf_header;
use super::network::StoredMatrix;
use super::spec::{Family, Spec};
use super::weights::{Plain, Stored};
use crate::{Error, Result};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor, gguf_file::Content};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A GGUF file in memory.
pub struct Gguf {
    path: PathBuf,
    tensors: HashMap<String, Arc<QTensor>>,
    /// Tensors kept as numbers rather than blocks: their form and bytes.
    plain: HashMap<String, (Stored, Vec<u8>)>,
    /// Query and key heads of files whose rotary pairs stand side by side.
    paired: Option<(usize, usize)>,
    /// The model has norms after both halves of a layer.
    post_norms: bool,
    kind: GgmlDType,
}

impl Gguf {
    /// Reads all tensors of `path`.
    ///
    /// # Errors
    /// Where the file is broken or cut off, or made from another architecture than `spec` says.
    pub fn open(path: &Path, spec: &Spec) -> Result<Gguf> {
        Gguf::read(path, &mut BufReader::new(File::open(path).map_err(Error::io(path, "open"))?), spec)
    }

    /// The same from any bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn read(path: &Path, file: &mut (impl Read + Seek), spec: &Spec) -> Result<Gguf> {
        let refused =
            |why: String| Error::mismatch(path, format!("not a whole GGUF file ({why}); it was cut off or damaged, download it again"));
        let broken = |e: candle_core::Error| refused(first_line(&e));
        // candle believes what a header says.
        let tensors = gguf_header::check(file).map_err(refused)?;
        let content = Content::read(file).map_err(broken)?;
        let length = file.seek(SeekFrom::End(0)).map_err(Error::io(path, "read"))?;
        gguf_header::check_tensors(&content, tensors, length).map_err(refused)?;
        let name = content.metadata.get("general.architecture").and_then(|v| v.to_string().ok());
        let fits = match spec.family {
            Family::Llama | Family::Mistral => &["llama", "mistral"][..],
            Family::Qwen2 => &["qwen2"],
            Family::Qwen3 => &["qwen3"],
            Family::Gemma2 => &["gemma2"],
            Family::Gemma3 => &["gemma3"],
            Family::Phi3 => &["phi3"],
        };
        match name {
            Some(name) if fits.contains(&name.as_str()) => {}
            other => {
                let other = other.map_or("without a name".into(), |name| format!("`{}`", super::shown(name)));
                let message = format!("made for architecture {other}, config.json beside it says {:?}", spec.family);
                return Err(Error::mismatch(path, message));
            }
        }
        let paired = matches!(spec.family, Family::Llama | Family::Mistral).then_some((spec.heads, spec.kv_heads));
        let mut gguf = Gguf {
            path: path.into(),
            tensors: HashMap::new(),
            plain: HashMap::new(),
            paired,
            post_norms: spec.post_norms,
            kind: GgmlDType::F32,
        };
        let mut sizes: Vec<(GgmlDType, usize)> = Vec::new();
        for name in content.tensor_infos.keys() {
            let tensor = content.tensor(file, name, &Device::Cpu).map_err(broken)?;
            let size = tensor.storage_size_in_bytes();
            match sizes.iter_mut().find(|(k, _)| *k == tensor.dtype()) {
                Some((_, all)) => *all += size,
                None => sizes.push((tensor.dtype(), size)),
            }
            let stored = match tensor.dtype() {
                GgmlDType::F32 => Some(Stored::F32),
                GgmlDType::F16 => Some(Stored::F16),
                GgmlDType::BF16 => Some(Stored::Bf16),
                _ => None,
            };
            if let Some(stored) = stored {
                gguf.plain.insert(name.clone(), (stored, tensor.data().map_err(broken)?.into_owned()));
            }
            gguf.tensors.insert(name.clone(), Arc::new(tensor));
        }
        gguf.kind = sizes.into_iter().max_by_key(|(_, size)| *size).map_or(GgmlDType::F32, |(kind, _)| kind);
        Ok(gguf)
    }

    /// Name of the form most weights have.
    pub fn kind(&self) -> String {
        format!("{:?}", self.kind).to_lowercase()
    }

    /// SHA-256 of the file in hex.
    ///
    /// # Errors
    /// Where it can no longer be read.
    pub fn hash(&self) -> Result<String> {
        let mut file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        let (mut sha, mut part) = (Sha256::new(), vec![0u8; 1 << 20]);
        loop {
            let n = file.read(&mut part).map_err(Error::io(&self.path, "read"))?;
            if n == 0 {
                break;
            }
            sha.update(&part[..n]);
        }
        Ok(hex::encode(sha.finalize()))
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|t| t.shape().elem_count() as u64).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.storage_size_in_bytes() as u64).sum()
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<(String, &Arc<QTensor>)> {
        let own = own_name(name, self.post_norms);
        let Some(tensor) = self.tensors.get(&own) else {
            return Err(Error::mismatch(&self.path, format!("`{own}` is missing; the file does not belong to the config.json beside it")));
        };
        if tensor.shape().dims() != shape {
            let message = format!("`{own}` has shape {:?}, config.json asks for {shape:?}", tensor.shape().dims());
            return Err(Error::mismatch(&self.path, message));
        }
        Ok((own, tensor))
    }

    /// The tensor that a model folder calls `name`.
    ///
    /// # Errors
    /// Where it is missing or of another shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<StoredMatrix<'_>> {
        let (own, tensor) = self.get(name, &[rows, cols])?;
        let heads = match self.paired {
            Some((q, _)) if own.ends_with("attn_q.weight") => Some(q),
            Some((_, kv)) if own.ends_with("attn_k.weight") => Some(kv),
            _ => None,
        };
        if let (None, Some((stored, bytes))) = (heads, self.plain.get(&own)) {
            let odd = || Error::mismatch(&self.path, format!("`{own}` has {} bytes", bytes.len()));
            return Ok(StoredMatrix::Plain(Plain::new(*stored, rows, cols, bytes).ok_or_else(odd)?));
        }
        let Some(heads) = heads else { return Ok(StoredMatrix::Quantised(tensor.clone())) };
        let bad = |e: candle_core::Error| Error::mismatch(&self.path, first_line(&e));
        let data = tensor.data().map_err(bad)?;
        let storage = QStorage::from_data(Cow::Owned(unpair(&data, rows, heads)), &Device::Cpu, tensor.dtype()).map_err(bad)?;
        Ok(StoredMatrix::Quantised(Arc::new(QTensor::new(storage, (rows, cols)).map_err(bad)?)))
    }

    /// The vector that a model folder calls `name`.
    ///
    /// # Errors
    /// As [`Gguf::matrix`].
    pub fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        let (own, tensor) = self.get(name, &[n])?;
        let values = tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        values.map_err(|e| Error::mismatch(&self.path, format!("`{own}`: {}", first_line(&e))))
    }
}

/// Rows of each head from `(pair, half)` order to `(half, pair)` order: files for llama.cpp keep the two numbers of a rotary pair
/// side by side.
fn unpair(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (width, half) = (data.len() / rows, rows / heads / 2);
    let mut out = Vec::with_capacity(data.len());
    for head in 0..heads {
        for which in 0..2 {
            for pair in 0..half {
                let row = head * 2 * half + 2 * pair + which;
                out.extend_from_slice(&data[row * width..(row + 1) * width]);
            }
        }
    }
    out
}

/// The name in GGUF of what a model folder calls `name`.
fn own_name(name: &str, post_norms: bool) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|n| n.split_once('.')) else { return name.into() };
    let own = match part.rsplit_once('.').map_or(part, |(stem, _)| stem) {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" if post_norms => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    let kind = part.rsplit_once('.').map_or("weight", |(_, kind)| kind);
    format!("blk.{layer}.{own}.{kind}")
}

/// candle's errors can carry a backtrace; the first line is the message.
pub(super) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
