use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Selector {
    text.parse().unwrap_or_else(|error: ParseSelectorError| panic!("{error}\n{}", error.caret()))
}

fn refused(text: &str) -> ParseSelectorError {
    text.parse::<Selector>().expect_err(text)
}

#[test]
fn prints_the_canonical_form() {
    for (text, canonical) in [
        ("", ""),
        (" \t\r\n", ""),
        ("x=a,y=b,z=c", "x=a,y=b,z=c"),
        ("z==c , a != b", "a!=b,z=c"),
        ("x in (c,a,c), !y,w", "w,x in (a,c),!y"),
        ("x=", "x="),
        ("x= ,z=a", "x=,z=a"),
        ("x notin ()", "x notin ()"),
        ("x in (,a)", "x in (,a)"),
        ("x in (a,)", "x in (,a)"),
        ("x in (a,,b)", "x in (,a,b)"),
        ("x in (a,,,b)", "x in (,a,b)"),
        ("x in (,)", "x in ()"),
        ("in in (in, notin)", "in in (in,notin)"),
        ("notin=in", "notin=in"),
        ("in,!notin", "in,!notin"),
        ("x>1,y<007", "x>1,y<007"),
        ("app.kubernetes.io/name in(a)", "app.kubernetes.io/name in (a)"),
        ("! x", "!x"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn errors_point_at_the_character() {
    for (text, position, message) in [
        ("a=b,", 5, "found the end, expected a label key or '!'"),
        (",", 1, "found ',', expected a label key or '!'"),
        ("x=a||y=b", 3, "`a||y` is not a label value"),
        ("x==a==b", 5, "found '=', expected ',' or the end"),
        ("!x=a", 3, "found '=', expected ',' or the end"),
        ("x<a", 3, "found `a`, expected an integer"),
        ("x>", 3, "found nothing, expected an integer"),
        ("x>-5", 3, "`-5` is not a label value"),
        ("x>=5", 3, "found '=', expected a value"),
        ("x in a", 6, "found `a`, expected '(' and a list of values"),
        ("x in (a b)", 9, "found `b`, expected ',' or ')'"),
        ("x in (a", 8, "found the end, expected ',' or ')'"),
        ("x in (,,)", 9, "found ')', expected a value or ','"),
        ("x in (a,,)", 10, "found ')', expected a value or ','"),
        ("é=1", 1, "`é` is not a label key"),
        ("a=b, ü", 6, "`ü` is not a label key"),
        ("!", 2, "found the end, expected a label key after '!'"),
        ("x y", 3, "found `y`, expected '='"),
        ("x=\0y", 3, "a NUL character"),
    ] {
        let error = refused(text);
        assert!(error.position == position && error.message.starts_with(message), "{text}: {error:?}");
    }
}

#[test]
fn the_caret_stands_under_the_character() {
    assert_eq!(refused("x in (a b)").caret(), "x in (a b)\n        ^");
    assert_eq!(refused("a=b,\n%").caret(), "a=b, %\n     ^");
    let long = format!("{},%=1", vec!["key=value"; 60].join(","));
    let caret = refused(&long).caret();
    let (line, mark) = caret.split_once('\n').unwrap();
    assert_eq!(line.chars().nth(mark.len() - 1), Some('%'));
    assert!(line.len() <= ParseSelectorError::WINDOW);
}

#[test]
fn sizes_are_bounded() {
    assert!(vec!["a"; MAX_REQUIREMENTS].join(",").parse::<Selector>().is_ok());
    assert!(refused(&vec!["a"; MAX_REQUIREMENTS + 1].join(",")).message.contains("requirements"));
    assert!(refused(&format!("a in ({})", vec!["b"; MAX_VALUES + 1].join(","))).message.contains("values"));
    let error = refused(&"é".repeat(MAX_SELECTOR_LENGTH));
    assert!(error.message.contains("bytes") && error.text.len() <= MAX_SELECTOR_LENGTH);
    let _ = error.caret();
}

#[test]
fn matches_as_kubernetes_does() {
    let labels: Labels = [("app", "web"), ("empty", ""), ("gen", "7"), ("text", "seven")].into_iter().collect();
    for (text, expected) in [
        ("", true),
        ("app=web", true),
        ("app=", false),
        ("app!=web", false),
        ("absent!=web", true),
        ("absent notin (a,b)", true),
        ("absent in (a,b)", false),
        ("absent=", false),
        ("empty=", true),
        ("empty in (,x)", true),
        ("empty", true),
        ("!empty", false),
        ("!absent", true),
        ("gen>6,gen<8", true),
        ("gen>7", false),
        ("gen<7", false),
        ("text>0", false),
        ("text<10", false),
        ("absent>0", false),
        ("app=web,app=api", false),
    ] {
        assert_eq!(parse(text).matches(&labels), expected, "{text}");
        assert_eq!(parse(text).matches_with(|key| labels.get(key)), expected, "{text}");
    }
}

#[test]
fn is_a_string_in_json() {
    let selector = parse("b,a=1");
    let json = serde_json::to_string(&selector).unwrap();
    assert_eq!(json, r#""a=1,b""#);
    assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "in", "notin", "x.io/a"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "1", "2", "10", "in", "v"]).prop_map(str::to_owned)
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let operator = prop::sample::select(vec![
        Operator::Equals,
        Operator::NotEquals,
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
        Operator::GreaterThan,
        Operator::LessThan,
    ]);
    (key(), operator, prop::collection::btree_set(value(), 1..4), 0..20_i64).prop_map(
        |(key, operator, values, number)| {
            let values = match operator {
                Operator::In | Operator::NotIn => values.into_iter().collect(),
                Operator::Exists | Operator::DoesNotExist => Vec::new(),
                Operator::GreaterThan | Operator::LessThan => vec![number.to_string()],
                Operator::Equals | Operator::NotEquals => values.into_iter().take(1).collect(),
            };
            Requirement { key, operator, values }
        },
    )
}

/// What the requirement means, straight from Kubernetes' documentation.
fn naive(requirement: &Requirement, labels: &Labels) -> bool {
    let has = labels.0.contains_key(&requirement.key);
    let value = labels.0.get(&requirement.key).cloned().unwrap_or_default();
    let listed = requirement.values.contains(&value);
    let number = value.parse::<i64>();
    let bound = requirement.values.first().and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
    match requirement.operator {
        Operator::Equals | Operator::In => has && listed,
        Operator::NotEquals | Operator::NotIn => !has || !listed,
        Operator::Exists => has,
        Operator::DoesNotExist => !has,
        Operator::GreaterThan => has && number.is_ok_and(|number| number > bound),
        Operator::LessThan => has && number.is_ok_and(|number| number < bound),
    }
}

proptest! {
    #[test]
    fn printing_and_parsing_is_identity(mut requirements in prop::collection::vec(requirement(), 0..6)) {
        requirements.sort();
        let selector = Selector { requirements };
        let parsed = parse(&selector.to_string());
        prop_assert_eq!(&parsed, &selector);
        prop_assert_eq!(parsed.to_string(), selector.to_string());
    }

    #[test]
    fn matches_like_the_naive_matcher(
        requirements in prop::collection::vec(requirement(), 0..4),
        pairs in prop::collection::btree_map(key(), value(), 0..4),
    ) {
        let labels = Labels(pairs);
        let expected = requirements.iter().all(|requirement| naive(requirement, &labels));
        let text = requirements.iter().map(ToString::to_string).collect::<Vec<_>>().join(" , ");
        prop_assert_eq!(parse(&text).matches(&labels), expected);
    }

    #[test]
    fn arbitrary_text_does_no_harm(text in "\\PC{0,40}") {
        check_arbitrary(&text)?;
    }

    #[test]
    fn almost_selectors_do_no_harm(text in "[abin,=!()<> 0é\n\t-]{0,24}") {
        check_arbitrary(&text)?;
    }
}

fn check_arbitrary(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<Selector>() {
        Ok(selector) => prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector)),
        Err(error) => {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.position));
            prop_assert!(error.caret().lines().count() == 2 || text.is_empty());
        }
    }
    Ok(())
}
