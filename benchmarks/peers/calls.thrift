struct Item {
    1: required i64 id
    2: required string name
    3: required double price
    4: required bool flag
}

service Calls {
    i64 add(1: i64 a, 2: i64 b)
    list<Item> records(1: list<Item> items)
    binary echo(1: binary data)
}
