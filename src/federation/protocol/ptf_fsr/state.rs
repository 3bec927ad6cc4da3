//! The whole state as tensors of a checkpoint, and back.

use super::upload::{decode_labelled, decode_uploads, encode_labelled, encode_uploads};
use super::{PtfFsr, Server};
use crate::engine::{NamedTensor, PrivateShape, PrivateStore, TensorData, Tensors};
use crate::{Error, Result};

/// Names of the server's moments: dense first and second, rows first and second.
const MOMENTS: [&str; 4] = ["optimizer.first.dense", "optimizer.second.dense", "optimizer.first.items", "optimizer.second.items"];

/// Name of the server's optimiser steps so far.
const STEPS: &str = "optimizer.steps";

fn bytes<'t>(tensors: &Tensors<'t>, name: &str) -> Result<&'t [u8]> {
    match tensors.get(name).map(|t| &t.data) {
        // Without any there is no tensor.
        None => Ok(&[]),
        Some(TensorData::U8(bytes)) => Ok(bytes),
        Some(_) => Err(Error::Usage(format!("checkpoint: tensor `{name}` must hold bytes"))),
    }
}

fn damaged(name: &str) -> impl FnOnce() -> Error {
    let message = format!("checkpoint: tensor `{name}` is damaged or of another data set; train again from the checkpoint before");
    move || Error::Usage(message)
}

impl PtfFsr {
    /// The server's model as `items [I, d]` and the dense tensors by name, its optimiser, clients' models (`private`), their last uploads
    /// and what they were sent last.
    pub(super) fn name_tensors(&self) -> Result<Vec<NamedTensor>> {
        let Server { weights, moments, steps } = &self.server;
        let d = weights.spec.dim();
        let mut out = vec![NamedTensor::f32("items", &[weights.items.len() / d, d], &weights.items)];
        for p in &weights.spec.params {
            out.push(NamedTensor::f32(&p.name, &p.shape, &weights.dense[p.offset..p.offset + p.len()]));
        }
        out.extend(MOMENTS.iter().zip(moments).map(|(name, values)| NamedTensor::f32(*name, &[values.len()], values)));
        out.push(NamedTensor { name: STEPS.into(), shape: vec![1], data: TensorData::U64(vec![u64::from(*steps)]) });
        let parts =
            [("private", self.private_bytes()?), ("uploads", encode_uploads(&self.uploads)), ("received", encode_labelled(&self.received))];
        for (name, bytes) in parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            out.push(NamedTensor { name: name.into(), shape: vec![bytes.len()], data: TensorData::U8(bytes) });
        }
        Ok(out)
    }

    /// Clients' models, of the clients of all processes; at rank 0 alone where there are several.
    fn private_bytes(&self) -> Result<Vec<u8>> {
        let own = self.private.encode()?;
        if self.reduce.size() == 1 {
            return Ok(own);
        }
        PrivateStore::joined(&self.reduce.collect(&own)?)
            .ok_or_else(|| Error::Cluster("clients' models of another process came damaged".into()))
    }

    /// Takes back what [`PtfFsr::name_tensors`] gave.
    ///
    /// # Errors
    /// [`Error::Usage`] with the name of a tensor that does not fit. The state is then what it was.
    pub(super) fn take_tensors(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()> {
        let mut server = self.server.clone();
        let (spec, d) = (server.weights.spec.clone(), server.weights.spec.dim());
        let (users, items) = (self.data.users(), self.data.item_count());
        server.weights.items.copy_from_slice(tensors.f32("items", &[items, d])?);
        for p in &spec.params {
            server.weights.dense[p.offset..p.offset + p.len()].copy_from_slice(tensors.f32(&p.name, &p.shape)?);
        }
        for (name, values) in MOMENTS.iter().zip(&mut server.moments) {
            let n = values.len();
            values.copy_from_slice(tensors.f32(name, &[n])?);
        }
        server.steps = match tensors.get(STEPS).map(|t| &t.data) {
            Some(TensorData::U64(steps)) if steps.len() == 1 => u32::try_from(steps[0]).map_err(|_| damaged(STEPS)())?,
            _ => return Err(damaged(STEPS)()),
        };
        let uploads = decode_uploads(bytes(tensors, "uploads")?, users, items).ok_or_else(damaged("uploads"))?;
        let received = decode_labelled(bytes(tensors, "received")?, users, items).ok_or_else(damaged("received"))?;
        let longest = self.constants.server.max_len as usize;
        let sequences = uploads.iter().flatten().chain(received.iter().flatten().map(|r| &r.upload));
        if sequences.into_iter().any(|upload| upload.items.len() > longest) {
            return Err(Error::Usage(format!("checkpoint: tensor `uploads` holds sequences of more than model.max_len = {longest} items")));
        }
        let initial = &self.initial;
        let shape = PrivateShape { clients: users, items, dim: initial.spec.dim(), dense: initial.dense.len() };
        let private =
            self.private.restored(bytes(tensors, "private")?, shape, &|client| self.shares.owns(client))?.ok_or_else(damaged("private"))?;
        // From here on nothing can fail.
        (self.server, self.uploads, self.received, self.private, self.rounds) = (server, uploads, received, private, rounds_done);
        Ok(())
    }
}
