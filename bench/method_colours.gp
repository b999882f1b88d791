# The colour of each method in gnuplot's pictures, as tools/method_colours.hpp has it: colours that stay apart for every
# kind of colour vision (Okabe and Ito 2008).
colour_of(method) = method eq "gradient_descent" ? "#0072B2" : \
                    method eq "momentum" ? "#D55E00" : \
                    method eq "rmsprop" ? "#009E73" : \
                    method eq "adam" ? "#CC79A7" : \
                    method eq "adamw" ? "#E69F00" : "#000000"
