//! Runs every input of the corpora through its target: a regression test that needs neither a fuzzer nor a sanitizer.

use std::path::Path;

/// How many inputs of a hundred have to come behind the checks, to what the target compares. A corpus that a new version
/// of the format, say, stops at the first check is dead, and has to be grown anew.
const SHARES: [(&str, usize); 8] = [
    ("aclnn", 5),
    ("at_open", 30),
    ("decoder", 40),
    ("elements", 40),
    ("nodes", 40),
    ("operator", 30),
    ("parser", 30),
    ("round_trip", 50),
];

#[test]
fn every_input_of_the_corpora_passes() {
    for (name, target) in mcd_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let (mut count, mut reached) = (0, 0);
        mcd_fuzz::was_reached();
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            count += 1;
            reached += usize::from(mcd_fuzz::was_reached());
        }
        println!("{name}: {reached} of {count} come to what is compared");
        let share = SHARES.iter().find(|(target, _)| target == name).expect("each target has one").1;
        assert!(count > 0 && reached * 100 >= share * count, "{name}: only {reached} of {count} inputs are of use");
    }
}
