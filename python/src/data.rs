//! Data sets and views. Their arrays are those of the Rust side, borrowed.

use crate::errors::LumosError;
use lumos::{Dataset, Prepared, UserViews, Views};
use numpy::ndarray::ArrayView1;
use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A prepared data set.
#[pyclass(frozen, name = "DataSet", module = "lumos")]
pub struct DataSet {
    data: Arc<Dataset>,
    folder: PathBuf,
    /// Index of each user, from the first look-up on.
    users: OnceLock<HashMap<String, u32>>,
}

impl DataSet {
    pub fn new(data: Arc<Dataset>, folder: PathBuf) -> DataSet {
        DataSet { data, folder, users: OnceLock::new() }
    }

    fn user(&self, name: &str) -> PyResult<usize> {
        let index = self.users.get_or_init(|| self.data.user_tokens.iter().cloned().zip(0..).collect());
        index.get(name).map(|user| *user as usize).ok_or_else(|| PyKeyError::new_err(format!("the data set has no user {name:?}")))
    }

    fn names(&self, items: &[u32]) -> Vec<String> {
        items.iter().map(|item| self.data.item_tokens[*item as usize].clone()).collect()
    }
}

/// `values` as a read-only array that keeps `owner` alive.
fn borrowed<'py, T: Element>(owner: &Bound<'py, DataSet>, values: &[T]) -> Bound<'py, PyArray1<T>> {
    // SAFETY: the values belong to a data set behind an `Arc` of `owner`, which nothing changes; the array holds `owner` and is read-only.
    let array = unsafe { PyArray1::borrow_from_array(&ArrayView1::from(values), owner.clone().into_any()) };
    array.readwrite().make_nonwriteable();
    array
}

#[pymethods]
impl DataSet {
    /// Name of the data set.
    #[getter]
    fn name(&self) -> &str {
        &self.data.name
    }

    /// Folder where it lies.
    #[getter]
    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Hash of its contents.
    #[getter]
    fn fingerprint(&self) -> &str {
        &self.data.fingerprint
    }

    /// Names of the users in the source data, by index.
    #[getter]
    fn users(&self) -> Vec<String> {
        self.data.user_tokens.clone()
    }

    /// Names of the items in the source data, by index.
    #[getter]
    fn items(&self) -> Vec<String> {
        self.data.item_tokens.clone()
    }

    /// Titles of the items, by index; empty where there is none.
    #[getter]
    fn titles(&self) -> Vec<String> {
        (0..self.data.item_count()).map(|item| self.data.catalogue.get(item).map_or(String::new(), |text| text.title.clone())).collect()
    }

    /// Where each user's items begin in `sequences` `[users + 1]`, uint64.
    #[getter]
    fn offsets<'py>(this: &Bound<'py, Self>) -> Bound<'py, PyArray1<u64>> {
        borrowed(this, &this.get().data.offsets)
    }

    /// The items of all users behind one another, oldest first, uint32.
    #[getter]
    fn sequences<'py>(this: &Bound<'py, Self>) -> Bound<'py, PyArray1<u32>> {
        borrowed(this, &this.get().data.items)
    }

    /// The items of `user` by name, oldest first.
    fn history(&self, user: &str) -> PyResult<Vec<String>> {
        Ok(self.names(self.data.sequence(self.user(user)?)))
    }

    fn __len__(&self) -> usize {
        self.data.users()
    }

    fn __repr__(&self) -> String {
        let d = &self.data;
        format!("<lumos.DataSet {}: {} users, {} items, {} interactions>", d.name, d.users(), d.item_count(), d.items.len())
    }
}

/// The views of every user.
#[pyclass(frozen, name = "Views", module = "lumos")]
pub struct PyViews {
    data: DataSet,
    views: Arc<Views>,
    folder: Option<PathBuf>,
}

impl PyViews {
    pub fn new(prepared: &Prepared) -> PyViews {
        PyViews {
            data: DataSet::new(prepared.data.clone(), prepared.data_dir.clone()),
            views: prepared.views.clone(),
            folder: prepared.views_dir.clone(),
        }
    }
}

#[pymethods]
impl PyViews {
    /// Folder where they lie; None where the method uses none.
    #[getter]
    fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    /// The views of `user`, each a list of item names: `future` (history included), `paraphrase`, `counterfactuals` (a list of lists).
    fn of<'py>(&self, py: Python<'py>, user: &str) -> PyResult<Bound<'py, PyDict>> {
        let user = self.data.user(user)?;
        let missing = || LumosError::new_err("there are no views: the method of these settings uses none");
        let UserViews { future, paraphrase, counterfactuals } = self.views.get(user).ok_or_else(missing)?;
        let out = PyDict::new(py);
        out.set_item("future", self.data.names(future))?;
        out.set_item("paraphrase", self.data.names(paraphrase))?;
        out.set_item("counterfactuals", counterfactuals.iter().map(|view| self.data.names(view)).collect::<Vec<_>>())?;
        Ok(out)
    }

    fn __len__(&self) -> usize {
        self.views.users.len()
    }

    fn __repr__(&self) -> String {
        format!("<lumos.Views of {} users of {}>", self.views.users.len(), self.data.data.name)
    }
}
