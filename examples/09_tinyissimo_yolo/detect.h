/* Boxes of the cells that the model yolo.onnx writes, and non-maximum suppression, in integers. */
#ifndef DETECT_H
#define DETECT_H

#include <stdint.h>

#define DETECT_MOST 32 /* boxes that the grid can give */

/* What codes mean: a code less `zero` is a multiple of the output's scale s.
 * place: 352 s * 2^16; size: 1408 s * s * 2^16; least: the least score over s * s. */
typedef struct {
    int32_t zero;
    int32_t place;
    int32_t size;
    int32_t least;
} detect_scale;

/* Corners in sixteenths of a pixel, 0 to 1408; confidence times class, in units of s * s. */
typedef struct {
    int32_t x0, y0, x1, y1;
    int32_t kind;
    int32_t score;
} detect_box;

/* Writes at most DETECT_MOST boxes, by falling score, and returns how many. */
int32_t detect(const int8_t cells[208], const detect_scale *scale, detect_box *boxes);

#endif
