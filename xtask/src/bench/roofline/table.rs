//! The table of ops, limits and steps, as text. Knows no record.

use std::fmt::Write as _;

use super::step::StepRow;
use crate::bench::measured::Measured;
use crate::bench::ops::{Op, Printed};
use crate::bench::recorded::figure;
use crate::bench::roof::{Roof, is_of_bytes, spoken};

pub(super) fn of(printed: &Printed, roof: &Roof, steps: &[StepRow]) -> String {
    let mut table = String::new();
    for limit in &printed.limits {
        let unit = if is_of_bytes(&limit.limit) { "GB/s" } else { "Gop/s" };
        let _ = writeln!(table, "{:<62} {:>9} {unit}", spoken(&limit.limit), figure(limit.per_second / 1e9));
    }
    let _ = writeln!(
        table,
        "\n{:<62} {:>19} {:>9} {:>9}   {:<12} {:>7}",
        "", "time", "GB/s", "Gop/s", "bound by", "reached"
    );
    for measured in &printed.ops {
        if let Some(op) = &measured.op {
            table += &line(measured, op, roof);
        }
    }
    if !steps.is_empty() {
        table.push('\n');
    }
    for step in steps {
        let _ = writeln!(table, "{}", step.line());
    }
    table
}

fn line(measured: &Measured, op: &Op, roof: &Roof) -> String {
    let ns = measured.median_ns;
    let (bytes, operations) = (op.cost.bytes() as f64 / ns, op.cost.operations as f64 / ns);
    let (by, share) = match roof.bound(&op.cost) {
        Some(bound) => (spoken(&bound.by), format!("{:.0} %", 100.0 * bound.ns / ns)),
        None => ("not known".to_string(), String::new()),
    };
    format!(
        "{:<62} {:>19} {:>9} {:>9}   {by:<12} {share:>7}\n",
        measured.name,
        measured.figure(),
        figure(bytes),
        figure(operations)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ops;

    #[test]
    fn an_op_stands_beside_its_limit() {
        let text = r#"
            {"limit":{"limit":"memory","per_second":1e9}}
            {"limit":{"limit":"int8_dot","per_second":1e12}}
            {"op":{"name":"ops/m/qkv","model":"m","op":"qkv","format":"Q4_1","shape":"s","rows":8,"median_ns":2000,"spread_ns":10,"samples":9,"memory_bytes":1000,"cache_bytes":0,"operations":4000,"arithmetic":"int8_dot"}}
        "#;
        let printed = ops::parse(text).expect("it is what the program prints");
        let roof = Roof::of(printed.limits.iter().map(|limit| (limit.limit.clone(), limit.per_second)));
        let table = of(&printed, &roof, &[]);
        let line = table.lines().last().expect("an op");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["ops/m/qkv", "2.00", "±", "0.01", "us", "0.500", "2.00", "memory", "50", "%"]);
    }
}
