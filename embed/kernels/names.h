/* The names of template.h and products.h that every instruction set has of its own: `load` is
 * load_avx2 while the set is avx2. Included before and after them: the first time it defines the
 * names, the second time it forgets them and what isa.h explains. Whoever adds a helper function to
 * the template adds its name twice here. */
#ifndef NAME
#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)
#define NAME(x)     JOIN(x, SET)
#define STRING_(x)  #x
#define STRING(x)   STRING_(x)

#define vec                  NAME(vec)
#define ivec                 NAME(ivec)
#define uvec                 NAME(uvec)
#define bytes                NAME(bytes)
#define dvec                 NAME(dvec)
#define lvec                 NAME(lvec)
#define load                 NAME(load)
#define load_some            NAME(load_some)
#define load_at_most         NAME(load_at_most)
#define store                NAME(store)
#define store_at_most        NAME(store_at_most)
#define splat                NAME(splat)
#define choose               NAME(choose)
#define sum                  NAME(sum)
#define vexp                 NAME(vexp)
#define largest              NAME(largest)
#define group_peak           NAME(group_peak)
#define round_group          NAME(round_group)
#define score_tile           NAME(score_tile)
#define mix_tile             NAME(mix_tile)
#define mix_strip            NAME(mix_strip)
#define dot                  NAME(dot)
#define float_tile           NAME(float_tile)
#define float_store          NAME(float_store)
#define float_rows           NAME(float_rows)
#define int8_group           NAME(int8_group)
#define int8_store           NAME(int8_store)
#define int8_tile            NAME(int8_tile)
#define int8_rows            NAME(int8_rows)
#define load_words           NAME(load_words)
#define load_halves          NAME(load_halves)
#define load_shorts          NAME(load_shorts)
#define find_nonlinear       NAME(find_nonlinear)
#define shorts               NAME(shorts)
#define float_size           NAME(float_size)
#define load_weights         NAME(load_weights)
#define load_weights_at_most NAME(load_weights_at_most)
#define float_row_product    NAME(float_row_product)
#define half_product         NAME(half_product)
#define zero_of              NAME(zero_of)
#define plane                NAME(plane)
#define quants               NAME(quants)
#define block_scales         NAME(block_scales)
#define four_of              NAME(four_of)
#define group_product        NAME(group_product)
#define block_tile           NAME(block_tile)
#define unpack_slab          NAME(unpack_slab)
#define slab_tile            NAME(slab_tile)
#define slab_rows            NAME(slab_rows)
#define block_product        NAME(block_product)

#else
#undef JOIN_
#undef JOIN
#undef NAME
#undef STRING_
#undef STRING

#undef vec
#undef ivec
#undef uvec
#undef bytes
#undef dvec
#undef lvec
#undef load
#undef load_some
#undef load_at_most
#undef store
#undef store_at_most
#undef splat
#undef choose
#undef sum
#undef vexp
#undef largest
#undef group_peak
#undef round_group
#undef score_tile
#undef mix_tile
#undef mix_strip
#undef dot
#undef float_tile
#undef float_store
#undef float_rows
#undef int8_group
#undef int8_store
#undef int8_tile
#undef int8_rows
#undef load_words
#undef load_halves
#undef load_shorts
#undef find_nonlinear
#undef shorts
#undef float_size
#undef load_weights
#undef load_weights_at_most
#undef float_row_product
#undef half_product
#undef zero_of
#undef plane
#undef quants
#undef block_scales
#undef four_of
#undef group_product
#undef block_tile
#undef unpack_slab
#undef slab_tile
#undef slab_rows
#undef block_product

#undef SET
#undef LANES
#undef TARGET
#undef FLOAT_ROWS
#undef INT8_BLOCKS
#undef INT8_ROWS
#undef OFFSET
#undef LOAD_PART
#undef FMA
#undef SUM4
#undef DOT4
#undef DOT4_SMALL
#undef LOOKUP
#undef HALVES
#undef SHORTS
#endif
