"""What each grammar reads as a definition."""

from __future__ import annotations

import pytest

from longrepo.repository.grammars import GRAMMARS
from longrepo.repository.outline import build_outline

DATA = {"HTML", "CSS", "Markdown", "YAML", "TOML", "JSON"}  # nothing in them is called by name from elsewhere
SAMPLES = {
    "Python": (
        "class A:\n    @p\n    def f(self): return g()\nasync def h(): pass\ntype X = int\nk = lambda: 1\n",
        "A class, f method, h function",
    ),
    "Rust": (
        "macro_rules! m { () => {} }\nmod a { fn g() {} }\nunion U { a: u8 }\ntype T = u8;\n"
        "enum E { A }\nconst F: fn() = || ();\ntrait K { fn s(&self); }\n"
        "impl K for E { fn s(&self) { t() } }\n",
        "m macro, g function, U struct, T type, E enum, K trait, s method",
    ),
    "Go": (
        "package m\ntype (\n\tA struct{}\n\tB interface{ F() }\n)\ntype C = A\n"
        "func (a *A) F() { G() }\nfunc G[T any]() {}\n",
        "A type, B type, C type, F method, G function",
    ),
    "JavaScript": (
        "export class A { m() {} static s() {} p = () => 1 }\nasync function* g() {}\n"
        "var f = function () { h() };\nconst o = { k() {}, j: function () {}, l: () => 1 };\n"
        "module.exports.z = function () {};\nA.prototype.y = function () {};\n",
        "A class, m method, s method, p method, g function, f function, k method, z function, y function",
    ),
    "TypeScript": (
        "export interface I { a: b }\ntype T = I | J;\nenum E { A }\n"
        "namespace N { export function k() {} }\nabstract class A {\n  constructor() {}\n"
        "  f(): void { g(); }\n  p = () => 1;\n  abstract q(): void;\n}\n"
        "export default function h() {}\ndeclare function d(): void;\n",
        "I interface, T type, E enum, N module, k function, A class, constructor method, f method, "
        "p method, q method, h function, d function",
    ),
    "Java": (
        "package a;\ninterface I { int f(); }\nenum E { A }\nrecord R(int x) {}\n@interface N {}\n"
        "class A {\n  A() {}\n  int f() { return g(); }\n  class B {}\n}\n",
        "I interface, f method, E enum, R class, N interface, A class, A method, f method, B class",
    ),
    "Kotlin": (
        "interface I\nobject O\nenum class E { A }\ndata class D(val x: Int)\nclass C {\n"
        "  constructor()\n  companion object { fun k() {} }\n  fun f() = g()\n}\nfun h() {}\n"
        "typealias N = Int\n",
        "I class, O class, E class, D class, C class, k method, f method, h function, N type",
    ),
    "C": (
        "#define M(x) (x)\ntypedef struct { int a; } T;\nenum E { A };\nunion U { int a; };\n"
        "int f(void);\nint g(int a) { return f(); }\nstatic int *h(void) { return 0; }\n",
        "M macro, T type, E enum, U struct, g function, h function",
    ),
    "C++": (
        "namespace n {\ntemplate <class T> class A {\n public:\n  A();\n  ~A() {}\n"
        "  int f() { return g(); }\n};\nenum class E { A };\nusing X = int;\nconcept\n}\n"
        "int n::A::m() {}\nstruct S {};\n",
        "A class, ~A method, f method, E enum, m function, S struct",
    ),
    "C#": (
        "namespace N {\n  interface I { int P { get; } }\n  struct S { }\n  record R(int X);\n"
        "  enum E { A }\n  class A : I {\n    public A() {}\n    [X] public int F(int a) => G(a);\n"
        "    public int P { get; set; }\n    delegate void D();\n    void H() { int L() => 1; }\n  }\n"
        "}\n",
        "I interface, S struct, R class, E enum, A class, A method, F method, H method, L function",
    ),
    "Ruby": (
        "module M\n  class A < B\n    def f(x)\n      g(x)\n    end\n    def self.k; end\n  end\nend\ndef h; end\n",
        "M module, A class, f method, k method, h function",
    ),
    "PHP": (
        "<?php\nnamespace N;\ninterface I {}\ntrait T {}\nenum E {}\nclass A {\n"
        "  function f() { g(); }\n}\nfunction h() {}\n",
        "I interface, T trait, E enum, A class, f method, h function",
    ),
    "Swift": (
        "protocol P { func a() }\nstruct S { var x: Int }\nenum E { case a }\nclass C: P {\n"
        "  init() {}\n  func a() { b() }\n  deinit {}\n}\nextension C { func z() {} }\nfunc t() {}\n"
        "typealias N = Int\nactor Q {}\n",
        "P interface, S struct, E enum, C class, init method, a method, C class, z method, t function, N type, Q class",
    ),
    "Scala": (
        "package p\ntrait T { def a: Int }\nclass C(x: Int) extends T {\n  def a = f(x)\n}\n"
        "object O { val y = 1 }\nenum E { case A }\ncase class K(x: Int)\ntype Z = Int\n"
        "def top(x: Int): Int = x\n",
        "T trait, a method, C class, a method, O class, E enum, K class, Z type, top function",
    ),
    "Shell": (
        "f() { g; }\nfunction h { i; }\n",
        "f function, h function",
    ),
    "SQL": (
        "CREATE TABLE users (\n  id INT PRIMARY KEY\n);\nCREATE VIEW live AS SELECT * FROM users;\n"
        "CREATE FUNCTION total(a INT) RETURNS INT AS $$ SELECT 1 $$ LANGUAGE sql;\n",
        "users table, live view, total function",
    ),
    "Lua": (
        "local function f(a)\n  return g(a)\nend\nfunction M.h() end\nfunction M:k() end\nlocal x = function() end\n",
        "f function, M.h function, M:k function, x function",
    ),
    "Haskell": (
        "module A where\n\ndata T = B | C\nnewtype N = N Int\nclass Eq a => K a where\n"
        "  k :: a -> Int\ninstance K T where\n  k _ = 1\ntype S = String\nf :: Int -> Int\nf 0 = 1\n"
        "f x = g x\n",
        "T type, N type, K class, k function, S type, f function",
    ),
    "Elixir": (
        'defmodule A.B do\n  @doc "x"\n  def f(a), do: g(a)\n  defp h do\n    1\n  end\n'
        "  defmacro m(x) do\n    x\n  end\n  def w(a) when a > 1, do: a\nend\n",
        "A.B module, f function, h function, m macro, w function",
    ),
    "Dart": (
        "class A extends B {\n  int x = 1;\n  A(this.x);\n  int f(int a) => a;\n  void g() {\n"
        "    f(1);\n  }\n  int get h => 1;\n}\nmixin M {}\nenum E { a, b }\n"
        "extension X on A { void k() {} }\nvoid main() {\n  run();\n}\ntypedef F = int Function(int);\n",
        "A class, A method, f method, g method, h method, M class, E enum, k method, main function, F type",
    ),
    "R": (
        'f <- function(a, b = 2) {\n  g(a)\n}\nh = function(x) x\nsetClass("A", representation())\n',
        "f function, h function",
    ),
    "Julia": (
        "module A\nstruct S\n  x::Int\nend\nabstract type T end\nfunction f(a)\n  g(a)\nend\n"
        "h(x) = x + 1\nmacro m(e)\n  e\nend\nend\n",
        "A module, S struct, T type, f function, h function, m macro",
    ),
    "OCaml": (
        "module M = struct\n  let f x = g x\nend\ntype t = A | B\nlet rec h a b = f a\nlet v = 3\n"
        "class c = object method m = 1 end\nmodule type S = sig val x : int end\n"
        'external e : int -> int = "e"\n',
        "M module, f function, t type, h function, c class, m method, S interface, e function",
    ),
    "Zig": (
        'const std = @import("std");\npub fn f(a: u32) u32 {\n    return g(a);\n}\nconst S = struct {\n'
        '    x: u32,\n    fn m(self: S) void {}\n};\nconst E = enum { a, b };\ntest "t" {}\n',
        "f function, S struct, m method, E enum",
    ),
    "Erlang": (
        "-module(a).\n-export([f/1]).\n-record(r, {x}).\nf(0) -> 1;\nf(X) -> g(X).\nh() -> ok.\n"
        "-define(M(X), X).\n-type t() :: atom().\n",
        "r struct, f function, h function, M macro, t type",
    ),
    "Protocol Buffers": (
        'syntax = "proto3";\npackage a;\nmessage M {\n  string x = 1;\n  enum E { A = 0; }\n}\n'
        "service S {\n  rpc F(M) returns (M);\n}\n",
        "M message, E enum, S service, F method",
    ),
    "CMake": (
        "function(f a)\n  message(x)\nendfunction()\nmacro(m)\nendmacro()\n",
        "f function, m macro",
    ),
    "Terraform": (
        'variable "a" {\n  type = string\n}\nresource "aws_x" "b" {\n  k = var.a\n}\nmodule "c" {\n}\n',
        "a block, aws_x.b block, c block",
    ),
    "Perl": (
        "package A;\nsub f {\n  g(1);\n}\nsub h { }\n1;\n",
        "f function, h function",
    ),
    "Objective-C": (
        '#import "a.h"\n@interface A : B\n- (int)f:(int)x;\n@end\n@implementation A\n'
        "- (int)f:(int)x {\n  return g(x);\n}\n+ (void)k {}\n@end\n@protocol P\n@end\n"
        "int main(void) { return [a f:1]; }\n",
        "A class, f method, A class, f method, k method, P interface, main function",
    ),
    "Clojure": (
        "(ns a.b)\n(defn f [x] (g x))\n(defmacro m [])\n(def v 1)\n(defprotocol P (k [x]))\n(defrecord R [a])\n",
        "f function, m macro, P interface, R class",
    ),
    "F#": (
        "module A\nlet f x = g x\ntype T = { X: int }\ntype C() =\n  member this.M() = 1\n",
        "f function, T type, C class, M method",
    ),
    "PowerShell": (
        "function Get-A {\n  param($x)\n  Write-B $x\n}\nclass K {\n  [int] M() { return 1 }\n}\nenum E { A }\n",
        "Get-A function, K class, M method, E enum",
    ),
    "Nix": (
        "{ pkgs }:\nlet\n  f = x: x + 1;\n  v = 2;\nin { a = f v; }\n",
        "f function",
    ),
    "Makefile": (
        "A = b\nall: x y\n\techo hi\n\n%.o: %.c\n\tcc $<\ndefine m\nx\nendef\n",
        "all target, %.o target, m macro",
    ),
    "Fortran": (
        "module m\ncontains\nsubroutine s(x)\n  integer :: x\n  call t(x)\nend subroutine\n"
        "integer function f(x)\n  f = x\nend function\nend module\nprogram p\nend program\n",
        "m module, s method, f method, p module",
    ),
    "Solidity": (
        "contract A is B {\n  struct S { uint x; }\n  event E(uint a);\n  modifier m() { _; }\n"
        "  constructor() {}\n  function f(uint a) public returns (uint) { return g(a); }\n}\n"
        "interface I {}\nlibrary L {}\n",
        "A class, S struct, m method, f method, I interface, L class",
    ),
    "Verilog": (
        "module m(input a, output b);\n  assign b = a;\n  function f; input x; f = x; endfunction\n"
        "  task t; endtask\nendmodule\n",
        "m module, f function, t function",
    ),
    "GraphQL": (
        "type A {\n  b: C\n}\nenum E { X }\ninput I { a: Int }\ninterface J { a: Int }\n",
        "A type, E enum, I type, J interface",
    ),
    "Nim": (
        "proc f(x: int): int =\n  g(x)\ntype\n  A = object\n    x: int\n",
        "f function, A type",
    ),
    "GDScript": (
        "class_name A\nfunc f(x):\n\tg(x)\nclass B:\n\tfunc k():\n\t\tpass\n",
        "f function, B class, k method",
    ),
    "Elm": (
        "module A exposing (..)\ntype T = B | C\ntype alias R = { x : Int }\nf : Int -> Int\nf x = g x\n",
        "T type, R type, f function",
    ),
    "Pascal": (
        "unit A;\ninterface\ntype T = class\n  procedure P;\nend;\nimplementation\nprocedure T.P;\n"
        "begin\nend;\nfunction F(x: Integer): Integer;\nbegin\nend;\nend.\n",
        "T type, T.P function, F function",
    ),
    "Emacs Lisp": (
        "(defun f (x) (g x))\n(defvar v 1)\n(defmacro m (x) x)\n",
        "f function, m macro",
    ),
    "Common Lisp": (
        "(defun f (x) (g x))\n(defclass c () ())\n",
        "f function",
    ),
    "Vim script": (
        "function! F(x)\n  call G(a:x)\nendfunction\n",
        "F function",
    ),
    "Thrift": (
        "struct A {\n  1: string b\n}\nservice S {\n  void f(1: A a)\n}\nenum E { X = 1 }\n",
        "A struct, S service, f function, E enum",
    ),
    "D": (
        "class A {\n  int f() { return g(); }\n}\nstruct S {}\nvoid h() {}\n",
        "A class, f method, S struct, h function",
    ),
    "GLSL": (
        "void f(int a) { g(a); }\nstruct S { int x; };\n",
        "f function, S struct",
    ),
    "Fish": (
        "function f\n  g\nend\n",
        "f function",
    ),
    "Tcl": (
        "proc f {x} {\n  g $x\n}\n",
        "f function",
    ),
}


@pytest.mark.parametrize("language", SAMPLES)
def test_each_language_has_its_definitions(language: str) -> None:
    text, expected = SAMPLES[language]
    found = build_outline(text, language).definitions
    assert ", ".join(f"{one.name} {one.kind}" for one in found) == expected
    assert all(text[one.start : one.body].strip() for one in found)
    assert all(one.signature in " ".join(text.split()) for one in found)


def test_every_grammar_has_a_sample() -> None:
    assert set(GRAMMARS) == set(SAMPLES) | DATA
