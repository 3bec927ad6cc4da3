//! Run folders: what a training left, and what its model says.

use crate::convert::object;
use crate::errors::{LumosError, raise};
use lumos::config::Resident;
use lumos::engine::TensorData;
use lumos::run::{self, Devices, RunFolder};
use lumos::{Checkpoint, Error, Silent, Split};
use numpy::ndarray::ArrayD;
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::Arc;

/// A run folder.
#[pyclass(frozen, name = "Run", module = "lumos")]
pub struct Run {
    folder: RunFolder,
}

fn split(name: &str) -> PyResult<Split> {
    match name {
        "validation" => Ok(Split::Validation),
        "test" => Ok(Split::Test),
        _ => Err(PyValueError::new_err(format!("split: is {name:?}, wanted \"validation\" or \"test\""))),
    }
}

fn checkpoint(name: &str) -> PyResult<&str> {
    match name {
        "best" | "last" => Ok(name),
        _ => Err(PyValueError::new_err(format!("checkpoint: is {name:?}, wanted \"best\" or \"last\""))),
    }
}

/// Index of `name` among `names`.
fn index(what: &str, name: &str, names: &[String]) -> PyResult<u32> {
    let found = names.iter().position(|known| known == name);
    found.map(|i| i as u32).ok_or_else(|| LumosError::new_err(format!("the data set has no {what} {name:?}")))
}

impl Run {
    pub fn open(folder: &std::path::Path) -> PyResult<Run> {
        Ok(Run { folder: RunFolder::open(folder).map_err(raise)? })
    }
}

#[pymethods]
impl Run {
    #[new]
    fn new(folder: PathBuf) -> PyResult<Run> {
        Run::open(&folder)
    }

    /// The folder.
    #[getter]
    fn folder(&self) -> PathBuf {
        self.folder.root().to_path_buf()
    }

    /// Its settings, as nested dictionaries.
    #[getter]
    fn settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let settings = self.folder.settings().map_err(raise)?;
        object(py, &serde_json::to_value(&*settings).map_err(|e| raise(Error::Usage(e.to_string())))?)
    }

    /// What `result.json` holds; None while the run has not ended.
    #[getter]
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let path = self.folder.result();
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| raise(Error::mismatch(&path, e.to_string())))?;
        object(py, &value).map(Some)
    }

    /// One dictionary a round, as in `metrics.jsonl`.
    fn rounds<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        run::read_lines(&self.folder.metrics()).map_err(raise)?.iter().map(|line| object(py, line)).collect()
    }

    /// The rank of every user's target, from 1; `MISS` where the target is hidden. Of the best checkpoint, as the training or `evaluate` left it.
    #[pyo3(signature = (split="test"))]
    fn ranks<'py>(&self, py: Python<'py>, split: &str) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let (ranks, _) = run::read_ranks(&self.folder.ranks(self::split(split)?)).map_err(raise)?;
        Ok(ranks.into_pyarray(py))
    }

    /// The tensors of a checkpoint by name: `items [I, d]`, the dense weights, the moments of the server.
    #[pyo3(signature = (checkpoint="best"))]
    fn weights<'py>(&self, py: Python<'py>, checkpoint: &str) -> PyResult<Bound<'py, PyDict>> {
        let loaded = Checkpoint::load(&self.folder.checkpoint(self::checkpoint(checkpoint)?)).map_err(raise)?;
        let out = PyDict::new(py);
        for tensor in loaded.tensors {
            fn array<'py, T: numpy::Element>(py: Python<'py>, shape: &[usize], values: Vec<T>) -> PyResult<Bound<'py, PyAny>> {
                let array = ArrayD::from_shape_vec(shape, values).map_err(|e| PyValueError::new_err(e.to_string()))?;
                Ok(array.into_pyarray(py).into_any())
            }
            let value = match tensor.data {
                TensorData::F32(values) => array(py, &tensor.shape, values)?,
                TensorData::F64(values) => array(py, &tensor.shape, values)?,
                TensorData::U64(values) => array(py, &tensor.shape, values)?,
                TensorData::I64(values) => array(py, &tensor.shape, values)?,
                TensorData::U8(values) => array(py, &tensor.shape, values)?,
            };
            out.set_item(tensor.name, value)?;
        }
        Ok(out)
    }

    /// Ranks every user's target among all items; gives the metrics by name.
    #[pyo3(signature = (split="test", checkpoint="best", device="auto"))]
    fn evaluate<'py>(&self, py: Python<'py>, split: &str, checkpoint: &str, device: &str) -> PyResult<Bound<'py, PyAny>> {
        let (split, checkpoint) = (self::split(split)?, self::checkpoint(checkpoint)?);
        let scored = py.detach(|| {
            // Nothing is trained: the kernels of resident training need not be loaded.
            let settings = self.folder.settings()?.with(|s| s.gpu.resident = Resident::Off)?;
            let device = Devices::default().to_rank(&settings, device)?;
            run::score(&self.folder, &settings, split, checkpoint, &device, &Silent)
        });
        object(py, &serde_json::Value::Object(scored.map_err(raise)?.scores.into_iter().collect()))
    }

    /// The `k` best next items for a user of the data set, or for `history`, item names from the oldest to the latest: item, title, score.
    #[pyo3(signature = (user=None, history=None, k=10, checkpoint="best"))]
    fn recommend(
        &self,
        py: Python,
        user: Option<&str>,
        history: Option<Vec<String>>,
        k: usize,
        checkpoint: &str,
    ) -> PyResult<Vec<(String, String, f32)>> {
        let checkpoint = self::checkpoint(checkpoint)?;
        let settings = self.folder.settings().map_err(raise)?;
        let data = Arc::new(py.detach(|| run::load_run_data(&self.folder, &settings, &Silent)).map_err(raise)?);
        let (user, history) = match (user, history) {
            (Some(user), None) => {
                let user = index("user", user, &data.user_tokens)?;
                (Some(user), data.sequence(user as usize).to_vec())
            }
            (None, Some(names)) => (None, names.iter().map(|name| index("item", name, &data.item_tokens)).collect::<PyResult<_>>()?),
            _ => return Err(PyValueError::new_err("recommend: wanted either user or history")),
        };
        if k == 0 || k > data.item_count() {
            return Err(PyValueError::new_err(format!("k: is {k}, wanted 1 to {}, the number of items", data.item_count())));
        }
        let top = py.detach(|| run::recommend(&self.folder, checkpoint, &settings, &data, user, &history, k)).map_err(raise)?;
        let named = |(item, score): (u32, f32)| {
            let title = data.catalogue.get(item as usize).map_or(String::new(), |text| text.title.clone());
            (data.item_tokens[item as usize].clone(), title, score)
        };
        Ok(top.into_iter().map(named).collect())
    }

    fn __repr__(&self) -> String {
        format!("<lumos.Run {}>", self.folder.root().display())
    }
}

/// Every run folder below `folder`, in the order of their paths.
#[pyfunction]
#[pyo3(signature = (folder=PathBuf::from("runs")))]
pub fn runs(folder: PathBuf) -> PyResult<Vec<Run>> {
    let mut found = Vec::new();
    collect(&folder, &mut found)?;
    Ok(found)
}

fn collect(folder: &std::path::Path, found: &mut Vec<Run>) -> PyResult<()> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    for path in folders {
        match RunFolder::open(&path) {
            Ok(folder) => found.push(Run { folder }),
            Err(_) => collect(&path, found)?,
        }
    }
    Ok(())
}
