# Draws REPORT/bench.svg from REPORT/bench.txt, the table that `adamant bench` prints: percent of the same-mix ceiling
# against the number of parameters.   usage: gnuplot -c throughput.gp REPORT
report = ARG1
load system("dirname '" . ARG0 . "'") . "/method_colours.gp"
table = report . "/bench.txt"
methods = "gradient_descent momentum rmsprop adam adamw"
set terminal svg size 760,460 font "sans-serif,13" background "white"
set output report . "/bench.svg"
# "the CPU", or what the CUDA device is called: the table's first line says it.
device = system("sed -n 's/^One fused step on \\(.*\\), [a-z0-9]* parameters, .*/\\1/p' " . table)
set title "One fused float32 step on " . device . ", percent of a kernel that moves the same streams" noenhanced
set xlabel "parameters"
set ylabel "percent of the same-mix ceiling"
set logscale x 2
set format x "2^{%L}"
set yrange [0:110]
set grid ytics lc rgb "#dddddd"
set key outside right center
plot 100 with lines dashtype 2 lc rgb "#888888" title "ceiling", \
     for [i = 1:words(methods)] sprintf("< grep '^%s ' %s", word(methods, i), table) \
         using 2:8 with linespoints lw 2 pt 7 ps 0.7 lc rgb colour_of(word(methods, i)) title word(methods, i) noenhanced
