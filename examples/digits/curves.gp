# Draws FOLDER/digits.csv, which `digits --out FOLDER` wrote, as FOLDER/digits.svg: training loss and held-out accuracy
# of every method in the file.
#   gnuplot -c curves.gp FOLDER

if (ARGC != 1) { print "usage: gnuplot -c curves.gp FOLDER"; exit status 2 }
folder = ARG1
table = folder . "/digits.csv"
load system("dirname '" . ARG0 . "'") . "/../../bench/method_colours.gp"

set datafile separator comma columnheaders
set datafile missing NaN  # a filtered row is skipped, where an undefined one would break the line

methods = ""
collect(name) = (methods = strstrt(" " . methods, " " . name . " ") ? methods : methods . name . " ", 0)
stats table using (collect(strcol(1))) nooutput
row_of(method, value) = strcol(1) eq method ? value : NaN

# AdamW is dashed, because in the first epochs it lies on Adam's line.
do for [i = 1:words(methods)] {
  set linetype i linecolor rgb colour_of(word(methods, i)) linewidth 2
  if (word(methods, i) eq "adamw") { set linetype i dashtype "-" }
}

set terminal svg size 960,440 font "DejaVu Sans,Helvetica,Arial,sans-serif,13" noenhanced background "white"
set output folder . "/digits.svg"
set multiplot layout 1,2 margins 0.075,0.985,0.13,0.91 spacing 0.085

set border 3 linecolor rgb "#555555"
set tics nomirror textcolor rgb "#222222"
set grid ytics linecolor rgb "#dddddd" linetype 1 linewidth 1
set xlabel "epoch"
set xrange [0:*]

set title "Training loss (log scale)"
set logscale y
set format y "%g"
set yrange [*:4]
set autoscale yfixmin
unset key  # the other panel has it, and the room for it
plot for [i = 1:words(methods)] table using 2:(row_of(word(methods, i), $3)) \
  with lines linetype i title word(methods, i)

set title "Held-out accuracy, percent"
unset logscale y
set yrange [88:100]  # the first epochs lie below
set key bottom right reverse Left samplen 3 spacing 1.2
plot for [i = 1:words(methods)] table using 2:(row_of(word(methods, i), 100 * $4)) \
  with lines linetype i title word(methods, i)

unset multiplot
