// Command exam puts the judge of rollouts to the test and prints one line per
// figure on standard output, `name value unit`.
//
//	go run ./exam [-corpus FILE] [-half report|tune|all] [-only CLASS] [-v]
//	go run ./exam -write FILE [-seed N] [-releases N] [-installations N] [-background PART] [-delays TIMES]
//
// Without -corpus it makes one from -seed and reports on the half that nothing was
// tuned on: the releases with odd halves of their numbers. Of a corpus that is
// given it reports on everything. docs/exam-corpus.md has the format.
//
// It never judges a figure: it ends with 0 whatever they are, and with 1 where
// the corpus is wrong.
package main
