//! A SASRec as an ONNX graph: item indices in, the scores of all items out.

use super::{Exported, Source, write};
use crate::backend::cpu::NORM_EPS;
use crate::config::{Backbone, Positions, Residual};
use crate::run::{Observer, RunFolder};
use crate::{Error, Result};
use onnx_rs::ast;
use std::path::Path;

/// Version of the operators: the first with layer norms.
const OPERATORS: i64 = 17;

/// Writes `model.onnx` and `items.csv` into `out`: the checkpoint `name` of the run in `folder` as a graph with the input `history` `[n]` (64-bit item
/// indices, oldest first, 1 to `model.max_len` of them) and the output `scores` `[I]`, which are those of LUMOS up to rounding.
///
/// # Errors
/// Where the checkpoint or the data set cannot be read, for another backbone than SASRec, and where `out` cannot be written.
pub fn to_onnx(folder: &RunFolder, name: &str, out: &Path, observer: &dyn Observer) -> Result<Exported> {
    let source = Source::open(folder, name, observer)?;
    let backbone = source.settings.model.backbone;
    if backbone != Backbone::SASREC {
        let message = format!("--onnx: there is no graph for the backbone `{}`, only for sasrec; --torch has it", backbone.name());
        return Err(Error::Usage(message));
    }
    let files = vec![("model.onnx".to_string(), Graph::sasrec(&source)?.encode()), ("items.csv".to_string(), source.catalogue()?)];
    write(out, source.round, files)
}

/// Value of an attribute of an operator.
#[derive(Clone)]
enum Value {
    Whole(i64),
    Wholes(Vec<i64>),
    Float(f32),
}

struct Node {
    operator: ast::OpType<'static>,
    inputs: Vec<String>,
    output: String,
    attributes: Vec<(&'static str, Value)>,
}

/// A graph in the making. Every method that adds a node gives the name of its output.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    floats: Vec<(String, Vec<i64>, Vec<f32>)>,
    wholes: Vec<(String, Vec<i64>)>,
    items: i64,
}

impl Graph {
    fn sasrec(source: &Source) -> Result<Graph> {
        let (model, items) = (&source.settings.model, source.data.item_count());
        let (d, heads) = (i64::from(model.dim), i64::from(model.heads));
        let mut g = Graph { items: items as i64, ..Graph::default() };
        for (name, (shape, values)) in &source.weights {
            // Rows behind those of the items are none that can be recommended.
            let rows = if name == "items" { items } else { shape[0] };
            let shape: Vec<i64> = [rows].iter().chain(&shape[1..]).map(|n| *n as i64).collect();
            let n = shape.iter().product::<i64>() as usize;
            let values = values.get(..n).ok_or_else(|| Error::Usage(format!("--onnx: the weights `{name}` are too few")))?;
            g.floats.push((name.clone(), shape, values.to_vec()));
        }
        let mut x = g.node("Gather", &["items", "history"], &[]);
        if model.scale_items {
            let scale = g.float((d as f32).sqrt());
            x = g.node("Mul", &[&x, &scale], &[]);
        }
        let length = g.node("Shape", &["history"], &[]);
        let (first, end) = match model.positions {
            Positions::Last => {
                let longest = g.whole(&[model.max_len.into()]);
                (g.node("Sub", &[&longest, &length], &[]), longest)
            }
            Positions::First => (g.whole(&[0]), length.clone()),
        };
        let rows = g.node("Slice", &["positions", &first, &end], &[]);
        x = g.node("Add", &[&x, &rows], &[]);
        // Minus infinity above the diagonal.
        let square = g.node("Concat", &[&length, &length], &[("axis", Value::Whole(0))]);
        let hidden = g.float(f32::NEG_INFINITY);
        let all = g.node("Expand", &[&hidden, &square], &[]);
        let above = g.whole(&[1]);
        let above = g.node("Squeeze", &[&above], &[]);
        let mask = g.node("Trilu", &[&all, &above], &[("upper", Value::Whole(1))]);
        for block in 0..model.blocks {
            let part = |part: &str| format!("block{block}.{part}");
            let normed = g.norm(&x, &part("norm1"));
            let split = g.whole(&[0, heads, d / heads]);
            let [q, k, v] = [("q", &normed, [1, 0, 2]), ("k", &x, [1, 2, 0]), ("v", &x, [1, 0, 2])].map(|(name, from, axes)| {
                let y = g.linear(from, &part(name));
                let y = g.node("Reshape", &[&y, &split], &[]);
                g.node("Transpose", &[&y], &[("perm", Value::Wholes(axes.to_vec()))])
            });
            let scores = g.node("MatMul", &[&q, &k], &[]);
            let scale = g.float(((d / heads) as f32).sqrt());
            let scores = g.node("Div", &[&scores, &scale], &[]);
            let scores = g.node("Add", &[&scores, &mask], &[]);
            let shares = g.node("Softmax", &[&scores], &[("axis", Value::Whole(-1))]);
            let seen = g.node("MatMul", &[&shares, &v], &[]);
            let seen = g.node("Transpose", &[&seen], &[("perm", Value::Wholes(vec![1, 0, 2]))]);
            let joined = g.whole(&[-1, d]);
            let seen = g.node("Reshape", &[&seen, &joined], &[]);
            let y = g.linear(&seen, &part("o"));
            let kept = if model.residual == Residual::Normed { &normed } else { &x };
            x = g.node("Add", &[kept, &y], &[]);
            let normed = g.norm(&x, &part("norm2"));
            let inner = g.linear(&normed, &part("f1"));
            let inner = g.node("Relu", &[&inner], &[]);
            let y = g.linear(&inner, &part("f2"));
            let kept = if model.residual == Residual::Normed { &normed } else { &x };
            x = g.node("Add", &[kept, &y], &[]);
        }
        let last = g.whole(&[-1]);
        x = g.node("Gather", &[&x, &last], &[]);
        x = g.norm(&x, "norm");
        let table = g.node("Transpose", &["items"], &[]);
        let scores = g.node("MatMul", &[&x, &table], &[]);
        let axes = g.whole(&[0]);
        g.nodes.push(Node { operator: ast::OpType::Squeeze, inputs: vec![scores, axes], output: "scores".into(), attributes: Vec::new() });
        Ok(g)
    }

    fn node(&mut self, operator: &'static str, inputs: &[&str], attributes: &[(&'static str, Value)]) -> String {
        let output = format!("x{}", self.nodes.len());
        let inputs = inputs.iter().map(|name| name.to_string()).collect();
        self.nodes.push(Node { operator: operator.into(), inputs, output: output.clone(), attributes: attributes.to_vec() });
        output
    }

    fn norm(&mut self, x: &str, part: &str) -> String {
        let attributes = [("axis", Value::Whole(-1)), ("epsilon", Value::Float(NORM_EPS))];
        self.node("LayerNormalization", &[x, &format!("{part}.g"), &format!("{part}.b")], &attributes)
    }

    fn linear(&mut self, x: &str, part: &str) -> String {
        let y = self.node("MatMul", &[x, &format!("{part}.w")], &[]);
        self.node("Add", &[&y, &format!("{part}.b")], &[])
    }

    /// A constant without axes.
    fn float(&mut self, value: f32) -> String {
        let name = format!("f{}", self.floats.len());
        self.floats.push((name.clone(), Vec::new(), vec![value]));
        name
    }

    /// A constant of whole numbers `[n]`.
    fn whole(&mut self, values: &[i64]) -> String {
        let name = format!("n{}", self.wholes.len());
        self.wholes.push((name.clone(), values.to_vec()));
        name
    }

    fn encode(&self) -> Vec<u8> {
        let value = |name, elem_type, dim| {
            let shape = Some(ast::TensorShape { dim: vec![ast::TensorShapeDimension { value: dim, ..Default::default() }] });
            let tensor = ast::TypeValue::Tensor(ast::TensorTypeProto { elem_type, shape });
            ast::ValueInfo { name, r#type: Some(ast::TypeProto { value: Some(tensor), ..Default::default() }), ..Default::default() }
        };
        let floats = self.floats.iter().map(|(name, shape, values)| ast::TensorProto::from_f32(name, shape.clone(), values.clone()));
        let wholes = self.wholes.iter().map(|(name, values)| ast::TensorProto::from_i64(name, vec![values.len() as i64], values.clone()));
        let model = ast::Model {
            ir_version: 8,
            producer_name: "lumos",
            producer_version: env!("CARGO_PKG_VERSION"),
            opset_import: vec![ast::OperatorSetId { domain: "", version: OPERATORS }],
            graph: Some(ast::Graph {
                name: "sasrec",
                node: self.nodes.iter().map(Node::encode).collect(),
                initializer: floats.chain(wholes).collect(),
                input: vec![value("history", ast::DataType::Int64, ast::Dimension::Param("n"))],
                output: vec![value("scores", ast::DataType::Float, ast::Dimension::Value(self.items))],
                ..Default::default()
            }),
            ..Default::default()
        };
        onnx_rs::encode(&model)
    }
}

impl Node {
    fn encode(&self) -> ast::Node<'_> {
        let attribute = |(name, value): &(&'static str, Value)| {
            let of = |r#type| ast::Attribute { name, r#type, ..Default::default() };
            match value {
                Value::Whole(i) => ast::Attribute { i: *i, ..of(ast::AttributeType::Int) },
                Value::Wholes(ints) => ast::Attribute { ints: ints.clone(), ..of(ast::AttributeType::Ints) },
                Value::Float(f) => ast::Attribute { f: *f, ..of(ast::AttributeType::Float) },
            }
        };
        ast::Node {
            name: &self.output,
            op_type: self.operator.clone(),
            input: self.inputs.iter().map(String::as_str).collect(),
            output: vec![&self.output],
            attribute: self.attributes.iter().map(attribute).collect(),
            ..Default::default()
        }
    }
}
