@0x9f1c6a1d54c0b7e3;

struct Item {
  id @0 :Int64;
  name @1 :Text;
  price @2 :Float64;
  flag @3 :Bool;
}

interface Calls {
  add @0 (a :Int64, b :Int64) -> (sum :Int64);
  records @1 (items :List(Item)) -> (items :List(Item));
  echo @2 (data :Data) -> (data :Data);
}
