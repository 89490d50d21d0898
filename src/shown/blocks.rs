//! Finds, in a graph, the inputs of weights that are computed from the products of other experts' weights.

use std::collections::BTreeSet;

use crate::llama::{Graph, Node, NodeOp, Part, Source};

/// Most nodes between the rows of a layer and the input of down.
const MOST_NODES: usize = 100;

/// The input of a weight of routed experts, computed from the rows of their layer.
#[derive(Debug)]
pub(super) struct Block {
    /// The weight, such as `blk.0.ffn_down_exps.weight`.
    pub(super) weight: String,
    /// The first weight of the graph that reads the layer's rows, such as `blk.0.ffn_up_exps.weight`.
    pub(super) reader: String,
    /// From the rows to the input.
    pub(super) part: Part,
}

/// Finds all such inputs. Of those that cannot be described, returns the weight and the reason.
pub(super) fn find(graph: &Graph<'_>) -> Vec<Result<Block, (String, String)>> {
    let routed_by = routed_by(graph);
    let computed = |source: Option<&Source>, ids: Source| match source {
        Some(&Source::Node(at)) => routed_by[at] == Some(ids),
        _ => false,
    };
    let mut found = Vec::new();
    for node in graph.nodes() {
        let Some((weight, ids)) = routed(graph, node) else { continue };
        let Some(&Source::Node(input)) = node.sources.get(1).filter(|&input| computed(Some(input), ids)) else {
            continue;
        };
        let block =
            part(graph, &routed_by, input, ids).map(|(part, reader)| Block { weight: weight.to_owned(), reader, part });
        found.push(block.map_err(|reason| (weight.to_owned(), reason)));
    }
    found
}

/// Returns the weight and the ids of a product with routed experts.
fn routed<'g>(graph: &'g Graph<'_>, node: &Node) -> Option<(&'g str, Source)> {
    match (node.op, node.sources.as_slice()) {
        (NodeOp::MulMatId, [Source::Leaf(weight), _, ids, ..]) => Some((&graph.leaves()[*weight].name, *ids)),
        _ => None,
    }
}

/// Returns, per node, the ids of the last routed product that it is computed from.
fn routed_by(graph: &Graph<'_>) -> Vec<Option<Source>> {
    // Ids of a later layer are a later node.
    let place = |ids: &Source| if let Source::Node(at) = ids { *at } else { 0 };
    let mut all: Vec<Option<Source>> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let of_sources = || {
            let of =
                |source: &Source| if let Source::Node(at) = source { all.get(*at).copied().flatten() } else { None };
            node.sources.iter().filter_map(of).max_by_key(place)
        };
        let ids = routed(graph, node).map(|(_, ids)| ids).or_else(of_sources);
        all.push(ids);
    }
    all
}

/// Returns the nodes from the rows of a layer to `input`, and the first weight that reads the rows.
fn part(graph: &Graph<'_>, routed_by: &[Option<Source>], input: usize, ids: Source) -> Result<(Part, String), String> {
    let rows = rows_of(graph, routed_by, input, ids)?;
    let mut nodes = BTreeSet::new();
    let mut left = vec![input];
    while let Some(at) = left.pop() {
        if !nodes.insert(at) {
            continue;
        }
        if nodes.len() > MOST_NODES {
            return Err(format!("its input is computed from more than its layer's rows: {MOST_NODES} nodes"));
        }
        for &source in &graph.nodes()[at].sources {
            if let Source::Node(before) = source
                && source != rows
                && source != ids
            {
                left.push(before);
            }
        }
    }
    let reader = graph.nodes().iter().find_map(|node| {
        let (weight, by) = routed(graph, node)?;
        (by == ids && node.sources.get(1) == Some(&rows)).then(|| weight.to_owned())
    });
    let reader = reader.ok_or("no weight reads the rows of its layer")?;
    Ok((Part { rows, ids, nodes: nodes.into_iter().collect() }, reader))
}

/// Returns the rows that the products which `input` is computed from read.
fn rows_of(graph: &Graph<'_>, routed_by: &[Option<Source>], input: usize, ids: Source) -> Result<Source, String> {
    let is_computed = |source: Source| matches!(source, Source::Node(at) if routed_by[at] == Some(ids));
    let mut rows = None;
    let mut seen = BTreeSet::new();
    let mut left = vec![input];
    while let Some(at) = left.pop() {
        if !seen.insert(at) {
            continue;
        }
        let node = &graph.nodes()[at];
        for (i, &source) in node.sources.iter().enumerate() {
            match source {
                Source::Node(before) if is_computed(source) => left.push(before),
                _ if i == 1 && node.op == NodeOp::MulMatId && *rows.get_or_insert(source) != source => {
                    return Err("the experts' weights read different rows".to_owned());
                }
                _ => {}
            }
        }
    }
    rows.ok_or_else(|| "no rows lead to its input".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer: a norm, ids from a router, up and gate, what follows them, and down.
    fn layer(graph: &mut Graph<'_>, stream: Source, number: usize, scaled: bool) -> Source {
        let ne = [8, 1, 4, 1];
        let name = |kind: &str| format!("blk.{number}.{kind}.weight");
        let rows = graph.push_node("norm", NodeOp::RmsNorm { eps: 1e-6 }, ne, &[stream]);
        let router = graph.push_leaf(&name("ffn_gate_inp"), [8, 6, 1, 1], None);
        let logits = graph.push_node("logits", NodeOp::MulMat, [6, 4, 1, 1], &[router, rows]);
        let ids = graph.push_node("topk", NodeOp::Other, [2, 4, 1, 1], &[logits]);
        let mut product = |kind: &str, input: Source| {
            let weight = graph.push_leaf(&name(kind), [8, 8, 6, 1], None);
            graph.push_node(kind, NodeOp::MulMatId, [8, 2, 4, 1], &[weight, input, ids])
        };
        let (up, mut gate) = (product("ffn_up_exps", rows), product("ffn_gate_exps", rows));
        if scaled {
            let scales = graph.push_leaf("scales", [1, 6, 1, 1], None);
            let picked = graph.push_node("picked", NodeOp::GetRows, [1, 2, 4, 1], &[scales, ids]);
            gate = graph.push_node("scaled", NodeOp::Mul, [8, 2, 4, 1], &[gate, picked]);
        }
        let act = graph.push_node("act", NodeOp::Other, [8, 2, 4, 1], &[gate, up]);
        let weight = graph.push_leaf(&name("ffn_down_exps"), [8, 8, 6, 1], None);
        let down = graph.push_node("down", NodeOp::MulMatId, [8, 2, 4, 1], &[weight, act, ids]);
        graph.push_node("l_out", NodeOp::Add, ne, &[stream, down])
    }

    fn names(graph: &Graph<'_>, block: &Block) -> Vec<String> {
        block.part.nodes.iter().map(|&at| graph.nodes()[at].name.clone()).collect()
    }

    #[test]
    fn the_input_of_down_is_found_in_every_layer() {
        let mut graph = Graph::default();
        let start = graph.push_leaf("inp", [8, 4, 1, 1], None);
        let mut stream = graph.push_node("embd", NodeOp::Other, [8, 4, 1, 1], &[start]);
        for number in 0..3 {
            stream = layer(&mut graph, stream, number, number == 1);
        }
        let blocks: Vec<Block> = find(&graph).into_iter().collect::<Result<_, _>>().unwrap();
        let weights: Vec<&str> = blocks.iter().map(|block| block.weight.as_str()).collect();
        assert_eq!(weights, ["blk.0.ffn_down_exps.weight", "blk.1.ffn_down_exps.weight", "blk.2.ffn_down_exps.weight"]);
        assert_eq!(blocks[2].reader, "blk.2.ffn_up_exps.weight");
        assert_eq!(names(&graph, &blocks[0]), ["ffn_up_exps", "ffn_gate_exps", "act"]);
        assert_eq!(names(&graph, &blocks[1]), ["ffn_up_exps", "ffn_gate_exps", "picked", "scaled", "act"]);
        assert_eq!(graph.nodes()[blocks[0].part.nodes[0]].sources[1], blocks[0].part.rows);
    }

    #[test]
    fn products_that_read_different_rows_are_refused() {
        let mut graph = Graph::default();
        let input = |graph: &mut Graph<'_>, name: &str| {
            let leaf = graph.push_leaf("leaf", [8, 1, 4, 1], None);
            graph.push_node(name, NodeOp::Other, [8, 1, 4, 1], &[leaf])
        };
        let (a, b) = (input(&mut graph, "a"), input(&mut graph, "b"));
        let ids = input(&mut graph, "ids");
        let mut product = |kind: &str, input: Source| {
            let weight = graph.push_leaf(kind, [8, 8, 6, 1], None);
            graph.push_node(kind, NodeOp::MulMatId, [8, 2, 4, 1], &[weight, input, ids])
        };
        let (up, gate) = (product("up", a), product("gate", b));
        let act = graph.push_node("act", NodeOp::Other, [8, 2, 4, 1], &[gate, up]);
        let down = graph.push_leaf("down", [8, 8, 6, 1], None);
        graph.push_node("down", NodeOp::MulMatId, [8, 2, 4, 1], &[down, act, ids]);
        let (weight, reason) = find(&graph).pop().unwrap().unwrap_err();
        assert!(weight == "down" && reason.contains("different rows"), "{weight}: {reason}");
    }
}
